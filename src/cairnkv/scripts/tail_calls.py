"""Compiled Lua 5.1 with ordinary calls in the place of tail calls, so that errors have the line of the script.

`return redis.call(...)` is a tail call. A function of Lua then takes the place of the script on the stack, and an error
in it has no line. The functions of redis-server are C, and leave the script there.

Invariants:
- The changed code returns the same values: the instruction behind a tail call returns all results of the call.
- A tail call of an upvalue stays, so a local function can call itself so any number of times.
"""

from struct import Struct
from typing import Final

HEADER: Final = b"\x1bLuaQ\x00\x01\x04\x08\x04\x08\x00"
"""Lua 5.1, official format, little-endian, and the bytes of: int, size_t, instruction, number; numbers are doubles."""

GET_UPVALUE, CALL, TAIL_CALL, SET_LIST = 4, 28, 29, 34
SETTERS: Final = frozenset({0, 1, 2, 3, GET_UPVALUE, 5, 6, 10, 11, *range(12, 22), 27, CALL, 36, 37})
"""Opcodes that set the register that their field A names."""

C_MASK: Final = 0x1FF << 14
"""The field C of an instruction. If it is 0 in a SETLIST, the word behind it is a number, and no instruction."""

NIL, BOOLEAN, NUMBER, STRING = 0, 1, 3, 4
INT, SIZE = Struct("<i"), Struct("<Q")


def untailed(bytecode: bytes) -> bytes:
    """Return compiled Lua without tail calls, but for those of upvalues.

    The argument is what string.dump returns in this process. Where Lua was built with other types, it is returned as it
    is.
    """
    if not bytecode.startswith(HEADER):
        return bytecode
    chunk = _Chunk(bytecode)
    chunk.change_function()
    return bytes(chunk.code)


class _Chunk:
    def __init__(self, bytecode: bytes) -> None:
        self.code = bytearray(bytecode)
        self.at = len(HEADER)

    def change_function(self) -> None:
        self._skip_string()  # the name of the source
        self.at += 2 * INT.size + 4  # first and last line; numbers of upvalues, parameters, registers
        instructions = self._read_int()
        self._change_instructions(instructions)
        self.at += 4 * instructions
        for _ in range(self._read_int()):
            self._skip_constant()
        for _ in range(self._read_int()):
            self.change_function()
        lines = self._read_int()  # the line of each instruction
        self.at += INT.size * lines
        for _ in range(self._read_int()):
            self._skip_string()  # the name of a local variable
            self.at += 2 * INT.size
        for _ in range(self._read_int()):
            self._skip_string()  # the name of an upvalue

    def _change_instructions(self, number: int) -> None:
        code = memoryview(self.code)[self.at : self.at + 4 * number].cast("I")
        upvalues: set[int] = set()
        is_number = False
        for place, instruction in enumerate(code):
            if is_number:
                is_number = False
                continue
            opcode, register = instruction & 0x3F, instruction >> 6 & 0xFF
            if opcode == TAIL_CALL:
                if register not in upvalues:
                    code[place] = instruction - TAIL_CALL + CALL
            elif opcode == GET_UPVALUE:
                upvalues.add(register)
            elif opcode in SETTERS:
                upvalues.discard(register)
            elif opcode == SET_LIST:
                is_number = not instruction & C_MASK
        code.release()

    def _read_int(self) -> int:
        (value,) = INT.unpack_from(self.code, self.at)
        self.at += INT.size
        return int(value)

    def _skip_string(self) -> None:
        (size,) = SIZE.unpack_from(self.code, self.at)
        self.at += SIZE.size + size

    def _skip_constant(self) -> None:
        kind = self.code[self.at]
        self.at += 1
        if kind == STRING:
            self._skip_string()
        elif kind == NUMBER:
            self.at += 8
        elif kind == BOOLEAN:
            self.at += 1
