"""Windows and macOS: nothing of Linux is used without another way. Each walk lists all offenders at once."""

from __future__ import annotations

import ast
import json
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from helpers.systems import LINUX_TESTS
from ssss_zoo import memory, stopping
from ssss_zoo.atomic_write import write_text
from ssss_zoo.lock import LOCK, LOCKED_BYTES, owned, owner

ROOT = Path(__file__).parents[1]
SOURCES = [path for top in ("ssss_zoo", "plugins") for path in sorted((ROOT / top).rglob("*.py"))]
POSIX_MODULES = {"crypt", "fcntl", "grp", "posix", "pty", "pwd", "readline", "resource", "syslog", "termios", "tty"}
POSIX_ATTRIBUTES = {
    "os": "chown chroot fork forkpty geteuid getgid getloadavg getpgid getppgid getuid initgroups kill_pg killpg "
    "mkfifo mknod nice posix_fadvise posix_fallocate pread pwrite sched_getaffinity sched_setaffinity setpgid setsid "
    "statvfs sysconf tcgetpgrp uname wait3 wait4 waitid",
    "signal": "SIGALRM SIGCHLD SIGCONT SIGHUP SIGKILL SIGPIPE SIGQUIT SIGSTOP SIGTSTP SIGUSR1 SIGUSR2 SIGWINCH SIGXCPU "
    "alarm getitimer pause pthread_kill pthread_sigmask setitimer siginterrupt sigpending sigtimedwait sigwait "
    "sigwaitinfo",
    "time": "clock_settime tzset",
}


def trees_with(words: set[str]) -> Iterator[tuple[Path, ast.Module]]:
    """The files that hold one of the words, and their syntax trees. The others need not be parsed."""
    wanted = re.compile(rf"(?<!\w)({'|'.join(sorted(words))})")
    for path in SOURCES:
        text = path.read_text("utf-8")
        if wanted.search(text):
            yield path, ast.parse(text)


def walk_module_level(node: ast.AST):
    """Every node that is executed when the module is imported."""
    for child in ast.iter_child_nodes(node):
        if not isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
            yield child
            yield from walk_module_level(child)


def imported_modules(node: ast.AST) -> set[str]:
    names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
    names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
    return {name.split(".")[0] for name in names}


def guarded(path: Path, module: str, name: str) -> bool:
    """Whether the file asks for the attribute, or for the system, before it uses it."""
    text = path.read_text("utf-8")
    return f'hasattr({module}, "{name}")' in text or "sys.platform" in text


def test_no_module_of_one_system_is_imported_with_the_package():
    only = POSIX_MODULES | {"msvcrt", "winreg", "_winapi", "nt"}
    assert [
        f"{path.relative_to(ROOT)}:{node.lineno}: {name}"
        for path, tree in trees_with(only)
        for node in walk_module_level(tree)
        for name in imported_modules(node) & only
    ] == []


def test_no_attribute_of_one_system_is_used_without_asking_for_it():
    only = {module: set(names.split()) for module, names in POSIX_ATTRIBUTES.items()}
    assert [
        f"{path.relative_to(ROOT)}:{node.lineno}: {node.value.id}.{node.attr}"
        for path, tree in trees_with(set().union(*only.values()))
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name)
        if node.attr in only.get(node.value.id, ()) and not guarded(path, node.value.id, node.attr)
    ] == []


def test_no_file_of_the_linux_kernel_is_read():
    assert [
        f"{path.relative_to(ROOT)}:{node.lineno}: {node.value}"
        for path, tree in trees_with({"/proc/", "/sys/", "/dev/"})
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
        if node.value.startswith(("/proc/", "/sys/", "/dev/")) and " " not in node.value
    ] == []


def opens_text_without_encoding(call: ast.Call) -> bool:
    """Whether a call opens, reads or writes a text file in the encoding of the system."""
    name = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
    owner = ast.unparse(call.func).rpartition(".")[0]
    if any(keyword.arg == "encoding" for keyword in call.keywords) or owner in ("Image", "av", "tarfile"):
        return False
    texts = [node.value for node in ast.walk(call) if isinstance(node, ast.Constant) and isinstance(node.value, str)]
    return {
        "open": not any("b" in mode for mode in texts),
        "read_text": bool(owner) and not call.args,
        "write_text": bool(owner) and len(call.args) < 2,
    }.get(name, False)


def test_text_files_are_opened_with_an_encoding():
    """Without one, Windows reads and writes them in an encoding of the country."""
    assert [
        f"{path.relative_to(ROOT)}:{node.lineno}: {ast.unparse(node)}"
        for path, tree in trees_with({"open", "read_text", "write_text"})
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and opens_text_without_encoding(node)
    ] == []


@pytest.mark.parametrize(("platform", "expected"), [("linux", 7 * 1024), ("darwin", 7), ("win32", 5)])
def test_peak_memory_is_in_bytes_on_every_system(platform, expected, monkeypatch):
    usage = SimpleNamespace(RUSAGE_SELF=0, getrusage=lambda who: SimpleNamespace(ru_maxrss=7))
    process = SimpleNamespace(memory_info=lambda: SimpleNamespace(peak_wset=5))
    monkeypatch.setattr(memory.sys, "platform", platform)
    monkeypatch.setitem(sys.modules, "resource", None if platform == "win32" else usage)
    monkeypatch.setitem(sys.modules, "psutil", SimpleNamespace(Process=lambda: process))
    assert memory.peak_resident_memory() == expected


def test_free_memory_is_known_where_the_system_tells(monkeypatch):
    free = memory.free_memory()
    assert free is not None
    assert free > 10**8
    monkeypatch.setattr("psutil.virtual_memory", lambda: Path("/no/such/file").read_text())
    assert memory.free_memory() is None


def test_a_stop_request_on_windows_is_a_signal_and_no_kill(monkeypatch):
    asked = []
    monkeypatch.setattr(stopping.sys, "platform", "win32")
    monkeypatch.setattr(stopping._thread, "interrupt_main", asked.append)
    stopping.stop_this_process()
    assert asked == [signal.SIGTERM]


def test_the_owner_of_a_folder_stands_behind_the_locked_bytes(tmp_path):
    """Windows locks the first byte against every other handle, that of the same process included."""
    (tmp_path / LOCK).write_text("x" * 500)  # of a process that was killed
    with owned(tmp_path):
        content = (tmp_path / LOCK).read_bytes()[LOCKED_BYTES:]
        host, pid = owner(tmp_path)
        assert json.loads(content) == {"host": host, "pid": pid}
        assert pid > 0


def test_text_files_have_the_same_line_ends_on_every_system(tmp_path, monkeypatch):
    monkeypatch.setattr("os.linesep", "\r\n")
    write_text(tmp_path / "a.csv", "é,1\r\nb,2\n")
    assert (tmp_path / "a.csv").read_bytes() == "é,1\r\nb,2\n".encode()


LINUX_ONLY = re.compile(
    r"helpers\.(forks|processes)\b|signal_after_step|def \w+\([^)]*\b(stop|tiny_compare|broken_off)\b|"
    r"os\.(kill|killpg|mkfifo|setsid)\b|SIGKILL|SIGHUP|SIGUSR|"
    r'get_context\("fork"|"/(proc|dev)/'
)


def test_tests_of_linux_alone_are_left_out_elsewhere():
    folder = ROOT / "tests"
    files = [path for path in folder.rglob("test_*.py") if LINUX_ONLY.search(path.read_text("utf-8"))]
    names = {path.relative_to(folder).as_posix() for path in files} - {"test_platforms.py"}
    assert names - set(LINUX_TESTS) == set()
    assert {name for name in LINUX_TESTS if not (folder / name).is_file()} == set()


PRETEND_WINDOWS = """
import builtins, os, signal, sys
hidden, attributes = {hidden!r}, {attributes!r}
true_import = builtins.__import__
def import_module(name, globals=None, *rest):
    if name in hidden and str((globals or {{}}).get("__name__")).startswith("ssss_zoo"):
        raise ModuleNotFoundError(f"No module named {{name!r}}")
    return true_import(name, globals, *rest)
builtins.__import__ = import_module
class Without:
    '''A module without some of its attributes, for our code alone.'''
    def __init__(self, module, names): self.__dict__.update(module=module, names=names)
    def __getattr__(self, name):
        if name in self.names: raise AttributeError(name)
        return getattr(self.module, name)
    def __setattr__(self, name, value): setattr(self.module, name, value)
import ssss_zoo.stopping, ssss_zoo.memory, psutil
less = {{name: Without(sys.modules[name], set(names.split())) for name, names in attributes.items()}}
def import_less(name, globals=None, locals=None, fromlist=(), level=0):
    ours = str((globals or {{}}).get("__name__")).startswith("ssss_zoo")
    return less[name] if ours and name in less else import_module(name, globals, locals, fromlist, level)
builtins.__import__ = import_less
for name in [name for name in sys.modules if name.startswith("ssss_zoo.")]:
    del sys.modules[name]  # imported anew, now with what Windows has
import ssss_zoo.memory
ssss_zoo.memory.sys = type("sys", (), {{"platform": "win32"}})
info = type("info", (), {{"peak_wset": 1 << 20}})
psutil.Process = lambda *pid: type("Process", (), {{"memory_info": lambda self: info}})()
"""


def run_as_on_windows(code: str, folder: Path) -> subprocess.CompletedProcess[str]:
    start = PRETEND_WINDOWS.format(hidden=POSIX_MODULES, attributes=POSIX_ATTRIBUTES)
    return subprocess.run([sys.executable, "-c", start + code], cwd=folder, capture_output=True, text=True)


def test_modules_that_load_without_torch_import_as_on_windows(tmp_path):
    names = "stopping lock memory atomic_write comparison.run_state comparison.run_one"
    code = f"for name in {names!r}.split(): __import__('ssss_zoo.' + name)\n"
    code += "from ssss_zoo.stopping import signals_blocked, Stop\n"
    code += "with signals_blocked(), Stop().handlers_installed(): print(ssss_zoo.memory.peak_resident_memory())"
    done = run_as_on_windows(code, tmp_path)
    assert (done.returncode, done.stdout) == (0, f"{1 << 20}\n"), done.stderr


@pytest.mark.slow
def test_a_run_trains_as_on_windows(tmp_path):
    """The modules and attributes that Windows lacks are hidden from the package. That is less than Windows itself."""
    code = "from ssss_zoo.commands.cli import command_line\n"
    code += (
        "sys.exit(command_line('run method=fixmatch train.steps=2 train.crop=64 tracking.uri=off output=run'.split()))"
    )
    done = run_as_on_windows(code, tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]
    assert json.loads((tmp_path / "run/metrics.json").read_text("utf-8"))["status"] == "finished"
