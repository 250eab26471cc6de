"""The evaluation of a model on held-out data, its plots and the report page."""
