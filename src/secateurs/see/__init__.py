"""See: numbers from weights (stats), marks from numbers (charts, pictures), and the page (report)."""
