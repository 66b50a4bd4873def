"""Web pages over the registry. They read it, and nothing here writes."""
