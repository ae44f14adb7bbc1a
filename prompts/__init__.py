"""Words for the model: Jinja templates and their strict, sandboxed rendering."""
