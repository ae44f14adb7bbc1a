"""Configuration, steps, Prefect flows and the command line: everything that joins the other folders."""
