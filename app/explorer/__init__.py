"""The web page that shows a model, and the page of the interface."""
