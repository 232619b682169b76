"""Our writer of text protos, read back by protobuf."""

from __future__ import annotations

import pytest
from triton_proto import parse_model_config

from exporter.deploy.proto_text import Word, message, text_from_message


@pytest.mark.parametrize("text", ["plain", 'quo"te\\', "line\nbreak\ttab\r\0", "größe 猫", "'", "\u2028\x7f", ""])
def test_strings_come_back(text):
    assert parse_model_config(text_from_message(message(("name", text)))).name == text


def test_lists_are_repeated_and_messages_nest():
    content = message(
        ("max_batch_size", 4),
        ("input", [message(("name", "a"), ("data_type", Word("TYPE_FP32")), ("dims", [3, -1]))]),
        ("dynamic_batching", message(("preferred_batch_size", (2, 4)), ("preserve_ordering", True))),
        ("version_policy", message(("latest", message()))),
    )
    read = parse_model_config(text_from_message(content))
    assert read.max_batch_size == 4
    assert list(read.input[0].dims) == [3, -1]
    assert list(read.dynamic_batching.preferred_batch_size) == [2, 4]
    assert read.dynamic_batching.preserve_ordering is True
    assert read.version_policy.WhichOneof("policy_choice") == "latest"
