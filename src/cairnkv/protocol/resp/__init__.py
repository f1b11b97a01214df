"""The Redis serialization protocol (RESP): requests in, replies out. Sans-IO.

    *2\\r\\n$3\\r\\nGET\\r\\n$5\\r\\nstone\\r\\n     a request: an array of bulk strings
    GET stone\\r\\n                          the same, typed by hand: an inline request
    $5\\r\\nheavy\\r\\n                        a reply: its first byte says of which kind it is

`requests` has the decoder of what clients send, which is the same in both versions of the protocol; `replies` has
the kinds of values that a server says, and how they look in version 2 and in version 3.

Not for what a request means: to this room it is a list of byte strings.
"""

from cairnkv.protocol.resp.replies import (
    NULL_ARRAY,
    OK,
    Error,
    NullArray,
    Push,
    Resp,
    SetOf,
    Simple,
    TooLong,
    Value,
    Verbatim,
    array_head,
    bulk_strings,
    double_text,
    encode_parts,
)
from cairnkv.protocol.resp.requests import ProtocolFault, RequestDecoder

__all__ = [
    "NULL_ARRAY",
    "OK",
    "Error",
    "NullArray",
    "ProtocolFault",
    "Push",
    "RequestDecoder",
    "Resp",
    "SetOf",
    "Simple",
    "TooLong",
    "Value",
    "Verbatim",
    "array_head",
    "bulk_strings",
    "double_text",
    "encode_parts",
]
