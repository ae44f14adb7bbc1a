"""Documents to chunks, generations, kept and distinct texts, and a published data set."""
