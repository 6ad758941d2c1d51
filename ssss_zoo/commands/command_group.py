"""The group of all commands: its page of help, the names that people type for a command, and one-line mistakes."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import Any

import click

from ssss_zoo.errors import OUT_OF_MEMORY, Interrupted, UserError, out_of_memory
from ssss_zoo.text import visible, wrap_words

SECTIONS = {
    "Start": ("run", "plan", "data", "check-install"),
    "Look": ("list", "card", "config", "inspect", "evaluate", "ui"),
    "Compare": ("compare", "search", "report"),
    "Use the model": ("predict", "demo", "label", "export", "push"),
    "Extend": ("new",),
}
LAST_SECTION = "More"  # commands that no section names
SYNONYMS = {
    "train": "ssss run",
    "fit": "ssss run",
    "test": "ssss evaluate run=DIR",
    "val": "ssss evaluate run=DIR",
    "eval": "ssss evaluate run=DIR",
    "help": "ssss --help",
    "version": "ssss --version",
    "infer": "ssss predict run=DIR input=PATH output=DIR",
    "mlflow": "ssss ui",
}
WELCOME = """Semantic segmentation from few labelled and many unlabelled images.

1. Train and see a result, in some minutes, without any data:
     ssss run
2. Train on your own images (images/, masks/, unlabelled/ in one folder):
     ssss data check dataset=folder data.root=DIR
     ssss run dataset=folder data.root=DIR time=30m
3. Compare methods fairly, with a report:
     ssss compare methods=fixmatch,farcluss seeds=0,1,2

All commands: ssss --help      One command: ssss run --help
"""


class CommandGroup(click.Group):
    """The group of all commands. It prints a mistake that a person can fix as one line and exits with 2."""

    def invoke(self, context: click.Context) -> Any:
        """Run the command; print its UserError, its interruption or a lack of memory as one line."""
        try:
            return super().invoke(context)
        except UserError as error:
            print_error(" ".join(str(error).split()))
            context.exit(2)
        except (Interrupted, KeyboardInterrupt) as error:
            print_error(str(error) or "stopped")
            context.exit(130)
        except Exception as error:
            if not out_of_memory(error):
                raise
            print_error(OUT_OF_MEMORY)
            context.exit(2)

    def resolve_command(self, context: click.Context, args: list[str]) -> Any:
        """The command that the arguments name. A word that other tools use for it is answered with its name here."""
        word = args[0] if args else ""
        if word in SYNONYMS and word not in self.commands:
            context.fail(f"No such command '{word}'. Type: {SYNONYMS[word]}")
        return super().resolve_command(context, args)

    def format_commands(self, context: click.Context, formatter: click.HelpFormatter) -> None:
        """The commands in sections, each with a line that is never cut."""
        named = [name for names in SECTIONS.values() for name in names]
        rest = tuple(name for name in self.list_commands(context) if name not in named)
        for title, names in {**SECTIONS, LAST_SECTION: rest}.items():
            rows = self.help_rows(context, names)
            if rows:
                with formatter.section(title):
                    formatter.write_dl(rows, col_max=max(map(len, self.commands)) + 2)

    def help_rows(self, context: click.Context, names: Iterable[str]) -> list[tuple[str, str]]:
        longest = max(map(len, self.commands))
        commands = [(name, self.get_command(context, name)) for name in names]
        return [
            (name.ljust(longest), command.get_short_help_str(limit=80))
            for name, command in commands
            if command and not command.hidden
        ]


def print_error(message: str) -> None:
    """Print a line on stderr, wrapped by words on a terminal."""
    line = visible(f"ssss: {message}")
    click.echo(wrap_words(line, terminal_width()) if sys.stderr.isatty() else line, err=True)


def terminal_width() -> int:
    from shutil import get_terminal_size

    return get_terminal_size().columns
