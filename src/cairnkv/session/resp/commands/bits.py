"""The commands of the Redis protocol on the bits of a value. Bit 0 is the highest of the first byte."""

from typing import Final

from cairnkv.commands import Get, SetBit, failures
from cairnkv.limits import STRING_MAX
from cairnkv.session.resp.command_spec import SYNTAX, Arguments, Call, Refusal, on_keys
from cairnkv.session.resp.commands.replies import number, of_value
from cairnkv.session.resp.commands.strings import places_of

NO_OFFSET: Final = "ERR bit offset is not an integer or out of range"
NO_BIT: Final = "ERR bit is not an integer or out of range"

BITS_MAX: Final = STRING_MAX * 8


@on_keys("SETBIT key offset value", "write denyoom", group="bitmap", since="2.2.0")
def setbit(arguments: Arguments) -> Call:
    """Set one bit of a value. Returns the previous bit."""
    key, offset = arguments.key(), arguments.integer(NO_OFFSET, least=0, most=BITS_MAX - 1)
    bit = arguments.integer(NO_BIT, least=0, most=1)
    return Call(SetBit(key, offset, bit), number, {failures.TOOLONG: NO_OFFSET})


@on_keys("GETBIT key offset", "readonly fast", group="bitmap", since="2.2.0")
def getbit(arguments: Arguments) -> Call:
    """Return one bit of a value."""
    key, offset = arguments.key(), arguments.integer(NO_OFFSET, least=0, most=BITS_MAX - 1)
    at, shift = offset // 8, 7 - offset % 8
    return Call(Get(key), of_value(lambda value: value[at] >> shift & 1 if at < len(value) else 0, 0))


@on_keys("BITCOUNT key [start end [BYTE | BIT]]", "readonly", group="bitmap", since="2.6.0")
def bitcount(arguments: Arguments) -> Call:
    """Count the bits of a value, or of a part of it, that are 1."""
    key = arguments.key()
    if not len(arguments):
        return Call(Get(key), of_value(_ones, 0))
    if len(arguments) not in (2, 3):
        raise Refusal(SYNTAX)
    start, end = arguments.integer(), arguments.integer()
    unit = arguments.keyword() if len(arguments) else b"BYTE"
    if unit not in (b"BYTE", b"BIT"):
        raise Refusal(SYNTAX)

    def count(value: bytes) -> int:
        if unit == b"BIT":
            return _ones_among(value, places_of(start, end, len(value) * 8))
        places = places_of(start, end, len(value))
        return _ones(value[places.start : places.stop])

    return Call(Get(key), of_value(count, 0))


def _ones(value: bytes) -> int:
    return int.from_bytes(value).bit_count()


def _ones_among(value: bytes, places: range) -> int:
    """Count the bits at these places that are 1.

    >>> _ones_among(bytes([0b00001111, 0b11110000]), range(5, 10))
    5
    """
    if not places:
        return 0
    bits = int.from_bytes(value[places.start // 8 : (places.stop + 7) // 8])
    return (bits >> -places.stop % 8 & (1 << len(places)) - 1).bit_count()
