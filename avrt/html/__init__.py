"""What the HTML pages share: one base template with its style and script, tables, plots as inline SVG, filters."""
