"""Studies: a YAML file of variants, axes and seeds; its jobs; where they stand; what they found."""
