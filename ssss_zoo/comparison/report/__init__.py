"""What is known of a comparison's runs: scores, statistics, tables, charts, pictures, the report."""
