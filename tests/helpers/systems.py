"""Which tests are for one operating system alone."""

from __future__ import annotations

# They fork, send signals to groups, or read files that only Linux has. tests/test_platforms.py keeps the list whole.
LINUX_TESTS = [
    "comparison/test_compare.py",
    "comparison/test_equal_time.py",
    "comparison/test_fairness.py",
    "comparison/test_launch.py",
    "comparison/test_records.py",
    "data/test_contents.py",
    "data/test_file_tree.py",
    "data/test_folder_lists.py",
    "data/test_split_lists.py",
    "deploy/test_export.py",
    "planning/test_timed_training.py",
    "test_bad_input.py",
    "test_checkpoint.py",
    "test_config_mistakes.py",
    "test_contrast_processes.py",
    "test_kills.py",
    "test_loggers.py",
    "test_not_finite.py",
    "test_processes.py",
    "test_record_files.py",
    "test_resume.py",
    "test_stopping.py",
]
