"""The Redis serialization protocol (RESP): decodes requests and encodes replies. Sans-IO.

    *2\\r\\n$3\\r\\nGET\\r\\n$5\\r\\nstone\\r\\n     a request: an array of bulk strings
    GET stone\\r\\n                          an inline request with the same arguments
    $5\\r\\nheavy\\r\\n                        a reply: its first byte is its kind

`requests` decodes requests, which are the same in both versions of the protocol. `replies` has the kinds of values, and
encodes them for RESP2 and RESP3.

Out of scope: the meaning of a request, which is a list of byte strings here.
"""

from cairnkv.protocol.resp.replies import *  # noqa: F403
from cairnkv.protocol.resp.requests import ProtocolFault as ProtocolFault
from cairnkv.protocol.resp.requests import RequestDecoder as RequestDecoder
