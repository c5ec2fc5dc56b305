"""Pictures of results: one definition as pure data, written as SVG for pages and notebooks and as PNG for documents."""
