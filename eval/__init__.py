"""A model's answers to scores: what it learned, what it still knows, and the report that shows both."""
