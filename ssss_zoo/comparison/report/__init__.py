"""Reports the runs of a comparison: scores, statistics, tables, charts, pictures, the report."""
