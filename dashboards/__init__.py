"""Read-only web pages over the registry. Empty as yet: `aqn ui` serves MLflow's pages."""
