"""The Flower app of the chaos campaign."""
