"""Our protocol texts against the descriptors of tritonclient, and the stubs against our texts.

That ours and tritonclient's are imported side by side here is itself part of what is tested.
"""

import importlib.util
import os
import runpy
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.descriptor import FileDescriptor
from google.protobuf.descriptor_pb2 import (
    DescriptorProto,
    EnumDescriptorProto,
    FieldDescriptorProto,
    FileDescriptorProto,
    FileDescriptorSet,
)
from tritonclient.grpc import model_config_pb2 as triton_model_config_pb2
from tritonclient.grpc import service_pb2 as triton_service_pb2

from runtime.wire.pb import inference_pb2, model_config_pb2
from runtime.wire.pool import reflection_pool

ROOT = Path(__file__).resolve().parents[2]
GENERATE = ROOT / "proto" / "generate.py"
FILES = {"inference": (inference_pb2, triton_service_pb2), "model_config": (model_config_pb2, triton_model_config_pb2)}

# What ours has and tritonclient's has not: name -> reason. A newer Triton may fill it; nothing else does.
OURS_ONLY: Mapping[str, str] = {}

Facts = dict[str, tuple[object, ...]]


def file_facts(descriptor: FileDescriptor) -> Facts:
    """All that clients and text files depend on, by name below the package."""
    file = FileDescriptorProto.FromString(descriptor.serialized_pb)
    facts = dict(fact for message in file.message_type for fact in message_facts(message, "", file.package))
    facts |= dict(fact for enum in file.enum_type for fact in enum_facts(enum, ""))
    for service in file.service:
        for method in service.method:
            types = (below(file.package, method.input_type), below(file.package, method.output_type))
            facts[f"{service.name}/{method.name}"] = (*types, method.client_streaming, method.server_streaming)
    return {"(syntax)": (file.syntax,), **facts}


def message_facts(message: DescriptorProto, outer: str, package: str) -> Iterator[tuple[str, tuple[object, ...]]]:
    name = f"{outer}{message.name}"
    yield name, ("message", message.options.map_entry)
    for nested in message.nested_type:
        yield from message_facts(nested, f"{name}.", package)
    for enum in message.enum_type:
        yield from enum_facts(enum, f"{name}.")
    for field in message.field:
        yield f"{name}.{field.name}", field_facts(field, message, package)


def field_facts(field: FieldDescriptorProto, message: DescriptorProto, package: str) -> tuple[object, ...]:
    kind = (FieldDescriptorProto.Type.Name(field.type), FieldDescriptorProto.Label.Name(field.label))
    oneof = message.oneof_decl[field.oneof_index].name if field.HasField("oneof_index") else None
    options = field.options.SerializeToString(deterministic=True)
    return (field.number, *kind, below(package, field.type_name), oneof, field.proto3_optional, options)


def enum_facts(enum: EnumDescriptorProto, outer: str) -> Iterator[tuple[str, tuple[object, ...]]]:
    yield f"{outer}{enum.name}", ("enum",)
    for value in enum.value:
        yield f"{outer}{enum.name}.{value.name}", (value.number,)


def below(package: str, type_name: str) -> str:
    return type_name.removeprefix(f".{package}.")


@pytest.mark.parametrize("name", FILES)
def test_all_that_tritonclient_has_is_the_same_in_ours(name: str) -> None:
    ours, theirs = (file_facts(module.DESCRIPTOR) for module in FILES[name])

    assert len(theirs) > 150  # the walk has found the file's content
    assert {key: ours.get(key) for key in theirs} == theirs


def test_what_only_ours_has_is_named_with_a_reason() -> None:
    facts = [tuple(file_facts(module.DESCRIPTOR).keys() for module in modules) for modules in FILES.values()]

    assert set().union(*(ours - theirs for ours, theirs in facts)) == OURS_ONLY.keys()


def test_ours_and_tritonclients_messages_read_each_other_in_one_process() -> None:
    ours = inference_pb2.ModelInferRequest(model_name="digits", raw_input_contents=[b"\x00\x01"])
    ours.inputs.add(name="x", datatype="UINT8", shape=[1, 2]).parameters["hint"].double_param = 0.5

    theirs = triton_service_pb2.ModelInferRequest.FromString(ours.SerializeToString(deterministic=True))

    assert str(theirs) == str(ours)
    assert theirs.DESCRIPTOR.full_name == "inference.ModelInferRequest"
    assert ours.DESCRIPTOR.full_name == "spillway.inference.ModelInferRequest"


def require_grpc_tools() -> None:
    if importlib.util.find_spec("grpc_tools"):
        return
    reason = "grpcio-tools is not in this interpreter; `make check` runs proto/generate.py --check in one that has it"
    if os.environ.get("SPILLWAY_REQUIRE") == "1":
        pytest.fail(reason)
    pytest.skip(reason)


def test_committed_stubs_are_those_of_the_texts() -> None:
    require_grpc_tools()

    check = subprocess.run([sys.executable, GENERATE, "--check"], capture_output=True, text=True, check=False)

    assert (check.returncode, check.stdout, check.stderr) == (0, "", "")


def test_reflection_shows_the_texts_word_for_word(tmp_path: Path) -> None:
    require_grpc_tools()
    output = tmp_path / "texts.binpb"
    texts = [f"{name}.proto" for name in FILES]
    protoc = [sys.executable, "-m", "grpc_tools.protoc", f"-I{GENERATE.parent}", f"--descriptor_set_out={output}"]
    subprocess.run([*protoc, *texts], check=True)
    pool = reflection_pool()

    for text in FileDescriptorSet.FromString(output.read_bytes()).file:
        for message in text.message_type:
            drop_json_names(message)  # protoc adds what it leaves out of stubs: the default lowerCamelCase
        shown = FileDescriptorProto.FromString(pool.FindFileByName(text.name).serialized_pb)
        assert str(shown) == str(text)


def drop_json_names(message: DescriptorProto) -> None:
    for field in message.field:
        field.ClearField("json_name")
    for nested in message.nested_type:
        drop_json_names(nested)


@pytest.fixture(scope="module")
def generate() -> dict[str, Any]:
    return runpy.run_path(str(GENERATE), run_name="generate")


def test_drift_names_changed_missing_and_left_over_stubs(generate: dict[str, Any], tmp_path: Path) -> None:
    differing: Callable[[Path, Path], list[str]] = generate["differing"]
    fresh, kept = tmp_path / "fresh", tmp_path / "kept"
    shutil.copytree(ROOT / "runtime" / "wire" / "pb", fresh, ignore=shutil.ignore_patterns("__*"))
    shutil.copytree(fresh, kept)
    (kept / "__init__.py").touch()
    assert differing(fresh, kept) == []

    with (kept / "inference_pb2.py").open("a") as stub:
        stub.write("\n")
    (kept / "model_config_pb2.pyi").unlink()
    (kept / "inference_pb2_grpc.py").touch()

    assert differing(fresh, kept) == ["inference_pb2.py", "inference_pb2_grpc.py", "model_config_pb2.pyi"]


def test_stub_text_renames_the_package_and_the_import_only(generate: dict[str, Any]) -> None:
    stub_text: Callable[[str], str] = generate["stub_text"]
    for name in FILES:
        text = (GENERATE.parent / f"{name}.proto").read_text(encoding="utf-8")
        back = stub_text(text).replace("package spillway.inference;", "package inference;")
        assert back.replace('import "runtime/wire/pb/', 'import "') == text
    with pytest.raises(ValueError, match="found 0 times, wanted 1"):
        stub_text("package other;\n")
