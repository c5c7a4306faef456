"""Reports over finished runs: records, tables, figures and pages."""
