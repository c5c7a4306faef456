"""From an owner's folder to rows: the source interface, and readers of the layouts and tables that owners publish."""
