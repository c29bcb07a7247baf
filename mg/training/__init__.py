"""From a recipe and videos to a trained network."""
