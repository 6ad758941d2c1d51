"""Methods side by side: which cells there are, where they run, what their figures say."""
