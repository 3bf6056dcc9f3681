"""The parts of the process backend that need no enclave."""

from __future__ import annotations

import contextlib
import os
import stat
import struct
import tempfile
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from geumgo._base import GeumgoError
from geumgo.backends import BACKENDS, LaunchFailed, UnknownBackend, launcher
from geumgo.backends.process import _landlock, _limits, _order, _tree
from geumgo.backends.process._limits import Cgroup, Usage, choose_cpus
from geumgo.backends.process._plan import Plan, Sandbox, command, environment

USAGE = Usage(64 << 20, (0,))


class TestFactory:
    def test_process(self, tmp_path: Path) -> None:
        assert launcher("process", nsm_state=tmp_path).name == "process"

    def test_unknown(self) -> None:
        with pytest.raises(UnknownBackend) as caught:
            launcher("mainframe")
        assert "process" in caught.value.fix
        assert "process" in BACKENDS

    def test_unknown_option(self) -> None:
        with pytest.raises(UnknownBackend):
            launcher("process", colour="blue")


class TestOrder:
    @given(st.binary(max_size=200))
    def test_garbage_is_our_error(self, line: bytes) -> None:
        for decode in (_order.decode_order, _order.decode_event, _order.decode_request):
            with contextlib.suppress(_order.OrderError):
                decode(line)

    def test_round_trips(self) -> None:
        order = _order.Order("n", "/e", "/r", "/s", 16, 512, 2, debug=True)
        assert _order.decode_order(_order.encode(order)) == order
        for event in (
            _order.Started(1, "landlock", False, "why"),
            _order.Measured("i-1", {"PCR0": "0"}),
            _order.Ended(None, "why"),
            _order.Failed("code", "what"),
        ):
            assert _order.decode_event(_order.encode(event)) == event
        assert _order.decode_request(_order.encode(_order.Terminate(1.5))).grace == 1.5

    def test_unknown_fields_of_an_order_are_refused(self) -> None:
        with pytest.raises(GeumgoError):
            _order.decode_request(b'{"type":"terminate","grace":1,"force":true}')


def _elf(interpreter: bytes | None, machine: int = 62) -> bytes:
    headers = (
        b"" if interpreter is None else struct.pack("<IIQQQQQQ", 3, 4, 120, 0, 0, len(interpreter) + 1, 0, 1)
    )
    ident = b"\x7fELF\x02\x01\x01" + bytes(9)
    header = ident + struct.pack(
        "<HHIQQQIHHHHHH", 3, machine, 1, 0, 64, 0, 0, 64, 56, len(headers) // 56, 0, 0, 0
    )
    return header + headers + (interpreter or b"") + b"\0"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "image" / "rootfs"
    for folder in ("usr/bin", "usr/lib64", "usr/lib/x86_64-linux-gnu", "etc", "opt/lib"):
        (root / folder).mkdir(parents=True)
    (root / "lib64").symlink_to("usr/lib64")
    (root / "usr/lib64/ld.so").write_bytes(b"")
    (root / "usr/bin/python3.11").write_bytes(_elf(b"/lib64/ld.so"))
    (root / "usr/bin/python3").symlink_to("python3.11")
    (tmp_path / "image" / "cmd").write_text("/usr/bin/python3\n-m\nx\n")
    (tmp_path / "image" / "env").write_text("A=b\n")
    return root


CMD = ("/usr/bin/python3", "-B", "-m", "x")


class TestTree:
    def test_the_images_python_and_loader(self, root: Path) -> None:
        (root / "etc/ld.so.conf").write_text("/opt/lib\n# no\n")
        tree = _tree.describe(root, CMD, {}, machine="x86_64")
        assert (tree.python, tree.loader, tree.module) == ("/usr/bin/python3.11", "usr/lib64/ld.so", True)
        assert tree.libraries == ("opt/lib", "usr/lib/x86_64-linux-gnu", "usr/lib64", "usr/lib")

    @pytest.mark.parametrize(
        ("cmd", "module"),
        [
            (("/usr/bin/python3", "-m", "x"), True),
            (("/usr/bin/python3.11", "/opt/script.py"), True),
            (("/usr/bin/python3", "-c", "pass"), False),
            (("/usr/bin/python3",), False),
            (("/bin/server",), False),
            (("/usr/bin/python3.99", "-m", "x"), False),
        ],
    )
    def test_what_one_process_can_be(self, root: Path, cmd: tuple[str, ...], module: bool) -> None:
        tree = _tree.describe(root, cmd, {}, machine="x86_64")
        assert tree.module is module
        assert tree.python == "/usr/bin/python3.11"

    def test_a_static_python_has_no_loader(self, root: Path) -> None:
        (root / "usr/bin/python3.11").write_bytes(_elf(None))
        assert _tree.describe(root, CMD, {}, machine="x86_64").loader is None

    @pytest.mark.parametrize(
        ("content", "code"),
        [
            pytest.param(b"#!/bin/sh\n", "image_has_no_python", id="a script"),
            pytest.param(b"", "image_has_no_python", id="empty"),
            pytest.param(_elf(b"/lib64/ld.so", 183), "unsupported_architecture", id="aarch64"),
            pytest.param(_elf(b"/lib64/absent.so"), "image_incomplete", id="no loader"),
            pytest.param(
                _elf(b"/x")[:32] + b"\xff" * 8 + _elf(b"/x")[40:], "image_has_no_python", id="far headers"
            ),
            pytest.param(
                _elf(b"/x")[:72] + b"\xff" * 8 + _elf(b"/x")[80:], "image_has_no_python", id="far name"
            ),
        ],
    )
    def test_a_python_that_cannot_run(self, root: Path, content: bytes, code: str) -> None:
        (root / "usr/bin/python3.11").write_bytes(content)
        with pytest.raises(LaunchFailed) as caught:
            _tree.describe(root, CMD, {}, machine="x86_64")
        assert caught.value.code == code

    @given(st.binary(max_size=300))
    def test_any_file_is_our_error_or_fine(self, content: bytes) -> None:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "usr/bin"
            path.mkdir(parents=True)
            (path / "python3").write_bytes(b"\x7fELF\x02\x01" + content)
            with contextlib.suppress(GeumgoError):
                _tree.describe(Path(folder), CMD, {}, machine="x86_64")

    def test_no_python_at_all(self, tmp_path: Path) -> None:
        (tmp_path / "usr").mkdir()
        with pytest.raises(LaunchFailed) as caught:
            _tree.describe(tmp_path, ("/bin/server",), {}, machine="x86_64")
        assert caught.value.code == "image_has_no_python"

    def test_a_link_out_of_the_root_is_not_followed(self, root: Path, tmp_path: Path) -> None:
        (tmp_path / "outside").write_bytes(_elf(None))
        (root / "usr/bin/python3.11").unlink()
        (root / "usr/bin/python3.11").symlink_to(tmp_path / "outside")
        with pytest.raises(LaunchFailed):
            _tree.describe(root, CMD, {}, machine="x86_64")

    def test_init_files_are_placed(self, root: Path) -> None:
        tree = _tree.describe(root, CMD, {}, machine="x86_64")
        _tree.place_init_files(tree, root.parent)
        assert (root / "run/geumgo-init/cmd").read_text().startswith("/usr/bin/python3")
        assert (root / "run/geumgo-init/env").read_text() == "A=b\n"
        assert not (root / "run/geumgo-init/process").exists()

    def test_a_process_file_is_placed_too(self, root: Path) -> None:
        (root.parent / "process").write_text("WORKDIR=/\n")
        _tree.place_init_files(_tree.describe(root, CMD, {}, machine="x86_64"), root.parent)
        assert (root / "run/geumgo-init/process").read_text() == "WORKDIR=/\n"

    @pytest.mark.parametrize("link", ["run", "run/geumgo-init"])
    def test_no_link_of_the_image_leads_the_launcher_out(self, root: Path, tmp_path: Path, link: str) -> None:
        (tmp_path / "victim").mkdir()
        (root / link).parent.mkdir(exist_ok=True)
        (root / link).symlink_to(tmp_path / "victim")
        tree = _tree.describe(root, CMD, {}, machine="x86_64")
        with pytest.raises(LaunchFailed) as caught:
            _tree.place_init_files(tree, root.parent)
        assert caught.value.code == "image_incomplete"
        assert list((tmp_path / "victim").iterdir()) == []

    def test_readable_for_others_and_never_more(self, tmp_path: Path) -> None:
        folder = tmp_path / "image"
        (folder / "sub").mkdir(parents=True, mode=0o700)
        for name, mode in (("secret", 0o600), ("program", 0o700), ("sub/closed", 0o000)):
            (folder / name).write_text("x")
            (folder / name).chmod(mode)
        (folder / "link").symlink_to("/etc/passwd")
        _tree.make_readable(folder)
        modes = {p.name: stat.S_IMODE(p.lstat().st_mode) for p in folder.rglob("*") if not p.is_symlink()}
        assert modes == {"sub": 0o755, "secret": 0o644, "program": 0o755, "closed": 0o000}
        assert stat.S_IMODE(folder.stat().st_mode) == 0o711

    def test_only_our_folders_are_removed(self, tmp_path: Path) -> None:
        ours = tmp_path / (_tree.FOLDER_PREFIX + "x")
        other = tmp_path / "precious"
        for folder in (ours, other):
            folder.mkdir()
            runtime = tmp_path / f"runtime-{folder.name}"
            runtime.mkdir()
            (runtime / _tree.IMAGE_LINK).symlink_to(folder)
            _tree.clear(runtime)
            assert not (runtime / _tree.IMAGE_LINK).is_symlink()
        assert other.exists()
        assert not ours.exists()
        _tree.clear(tmp_path)  # nothing to clear is fine

    def test_a_folder_is_chosen_where_programs_run(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(_tree, "_MEMORY", tmp_path / "absent")
        folder = _tree.choose_folder(tmp_path, None, 1000)
        assert folder.parent == tmp_path
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        monkeypatch.setattr(_tree, "reachable", lambda place, uid: False)
        with pytest.raises(LaunchFailed) as caught:
            _tree.choose_folder(tmp_path, None, 1000)
        assert caught.value.code == "no_place_for_image"

    def test_memory_is_used_only_where_there_is_plenty(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        memory = tmp_path / "memory"
        memory.mkdir()
        monkeypatch.setattr(_tree, "_MEMORY", memory)
        monkeypatch.setattr(_tree, "_free", lambda place: 1 << 30)
        assert _tree.choose_folder(tmp_path, None, 10 << 20).parent == memory
        assert _tree.choose_folder(tmp_path, None, 512 << 20).parent == tmp_path

    def test_a_user_without_home_and_temporary_folder(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def nowhere() -> str:
            raise FileNotFoundError

        monkeypatch.setattr(_tree, "_MEMORY", tmp_path / "absent")
        monkeypatch.setattr(tempfile, "gettempdir", nowhere)
        for home in ("", "relative"):
            monkeypatch.setenv("HOME", home)
            assert _tree.choose_folder(tmp_path, None, 1000).parent == tmp_path

    def test_reachable(self, tmp_path: Path) -> None:
        (tmp_path / "a:b").mkdir()
        assert not _tree.reachable(tmp_path / "a:b", None)
        assert not _tree.reachable(tmp_path / "absent", None)
        closed = tmp_path / "closed"
        closed.mkdir(mode=0o700)
        assert not _tree.reachable(closed, 65534)
        assert _tree.reachable(closed, None)


class TestPlan:
    def _plan(self, root: Path, sandbox: Sandbox, env: dict[str, str]) -> tuple[Plan, _tree.Tree]:
        tree = _tree.describe(root, CMD, env, machine="x86_64")
        return Plan(sandbox, tree, str(root), None, USAGE, {}, False), tree

    def test_namespaces_use_the_images_own_paths(self, root: Path) -> None:
        plan, tree = self._plan(root, Sandbox.NAMESPACES, {"PYTHONPATH": "/opt/lib:x", "SECRET": "no"})
        path, arguments = command(plan, tree)
        assert path == "/usr/lib64/ld.so"
        assert arguments[-4:] == ["-B", "-P", "-m", "geumgo.enclave.init"]
        assert arguments[arguments.index("--library-path") + 2] == "/usr/bin/python3.11"
        variables = environment(plan, tree)
        assert variables["GEUMGO_ROOT"] == "/"
        assert variables["PYTHONPATH"] == "/opt/lib:x"
        assert "SECRET" not in variables
        assert "GEUMGO_DEBUG" not in variables

    def test_landlock_puts_the_folder_before_every_path(self, root: Path) -> None:
        plan, tree = self._plan(root, Sandbox.LANDLOCK, {"PYTHONPATH": "/opt/lib"})
        path, arguments = command(plan, tree)
        assert path == f"{root}/usr/lib64/ld.so"
        assert arguments[:2] == [path, "--inhibit-cache"]
        assert all(place.startswith(f"{root}/") for place in arguments[3].split(":"))
        variables = environment(plan, tree)
        assert variables["GEUMGO_ROOT"] == str(root)
        assert variables["GEUMGO_CMD"] == f"{root}/run/geumgo-init/cmd"
        assert variables["PYTHONPATH"] == f"{root}/opt/lib"
        assert variables["PYTHONHOME"] == f"{root}/usr"

    def test_a_static_python_is_started_directly(self, root: Path) -> None:
        (root / "usr/bin/python3.11").write_bytes(_elf(None))
        plan, tree = self._plan(root, Sandbox.LANDLOCK, {"PYTHONHOME": "/usr"})
        assert command(plan, tree)[0] == f"{root}/usr/bin/python3.11"
        assert environment(plan, tree)["PYTHONHOME"] == f"{root}/usr"


class TestLimits:
    def test_cpus_are_spread(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {2, 5, 7})
        assert [choose_cpus(1, seed) for seed in range(4)] == [(2,), (5,), (7,), (2,)]
        assert choose_cpus(2, 2) == (2, 7)
        assert choose_cpus(99, 1) == (2, 5, 7)

    def test_no_cgroup_is_no_error(self, tmp_path: Path) -> None:
        group = Cgroup.create("x", USAGE, proc=tmp_path / "absent")
        group.add(os.getpid())
        assert not group.made
        assert not group.ran_out_of_memory()
        group.remove()

    def test_a_cgroup_outside_of_ours_is_not_touched(self, tmp_path: Path) -> None:
        (tmp_path / "cgroup").write_text("0::/../../other\n4:memory:/../other\nnonsense\n")
        assert not Cgroup.create("x", USAGE, proc=tmp_path / "cgroup").made

    def test_running_out_of_memory_is_read_from_it(self, tmp_path: Path) -> None:
        group = Cgroup((tmp_path,))
        (tmp_path / "memory.events").write_text("oom 1\noom_kill 0\n")
        assert not group.ran_out_of_memory()
        (tmp_path / "memory.events").write_text("oom 1\noom_kill 2\n")
        assert group.ran_out_of_memory()

    def test_a_cgroup_of_our_own_where_that_is_allowed(self) -> None:
        group = Cgroup.create("test", USAGE)
        if not group.made:
            pytest.skip("no cgroup of this process can be written")
        folders = group._folders
        assert all(folder.exists() for folder in folders)
        group.remove()
        assert not any(folder.exists() for folder in folders)

    def test_what_killed_launchers_left_is_removed(self, tmp_path: Path) -> None:
        for name in ("geumgo-one-999999999", f"geumgo-two-{os.getpid()}", "other-999999999", "geumgo-three"):
            (tmp_path / name).mkdir()
        (tmp_path / "geumgo-four-999999999").mkdir()
        (tmp_path / "geumgo-four-999999999" / "occupied").touch()
        _limits._sweep(tmp_path)
        assert sorted(entry.name for entry in tmp_path.iterdir()) == [
            "geumgo-four-999999999",
            "geumgo-three",
            f"geumgo-two-{os.getpid()}",
            "other-999999999",
        ]

    def test_the_descriptor_limit_leaves_one_number_above(self, monkeypatch: pytest.MonkeyPatch) -> None:
        for hard, limit in ((1024, 1023), (1 << 20, 4096), (-1, 4096)):
            monkeypatch.setattr(_limits.resource, "getrlimit", lambda which, hard=hard: (hard, hard))
            assert _limits.descriptor_limit() == limit


class TestLandlock:
    def test_every_right_that_the_kernel_knows_is_handled(self, monkeypatch: pytest.MonkeyPatch) -> None:
        known = SimpleNamespace(files=(1 << 13) - 1, network=0, scopes=0)

        def call(name: str, *arguments: object) -> int:
            if arguments[0] is None:
                return 1
            fields = struct.unpack(f"={len(arguments[0]) // 8}Q", arguments[0])  # type: ignore[arg-type]
            for field, allowed in zip(fields, (known.files, known.network, known.scopes), strict=False):
                if field & ~allowed:
                    raise OSError(22, "")
            return os.open(os.devnull, os.O_RDONLY)

        monkeypatch.setattr(_landlock, "call", call)
        assert _landlock.handled() == _landlock.Handled((1 << 13) - 1, 0, 0)
        known.files, known.network, known.scopes = (1 << 16) - 1, 3, 3
        assert _landlock.handled() == _landlock.Handled((1 << 16) - 1, 3, 3)

    def test_the_running_kernel(self) -> None:
        try:
            version = _landlock.abi()
        except OSError:
            pytest.skip("no Landlock here")
        found = _landlock.handled()
        bits = {1: 13, 2: 14, 3: 15, 4: 15, 5: 16, 6: 16, 7: 16}.get(version, 16)
        assert found.files & ((1 << bits) - 1) == (1 << bits) - 1
        assert (found.network == 3) is (version >= 4)
        assert (found.scopes == 3) is (version >= 6)
