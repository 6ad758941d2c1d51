"""What several test files share, one theme a module; no test is in here, and no test file imports another."""
