# SPDX-License-Identifier: Apache-2.0
"""Execute one instruction of ARMv8.1 (LSE ldaddal), for arm_check.py to run on an emulated processor.

A Raspberry Pi 4 lacks it, so the emulated one must trap. If it does not, the other checks prove nothing. torch 2.10.0
uses this instruction.
"""

import ctypes
import mmap

LDADDAL = 0xB8E10002  # ldaddal w1, w2, [x0]
RET = 0xD65F03C0

code = mmap.mmap(-1, mmap.PAGESIZE, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
code.write(LDADDAL.to_bytes(4, "little") + RET.to_bytes(4, "little"))
cell = ctypes.create_string_buffer(16)
call = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_int)
call(ctypes.addressof(ctypes.c_char.from_buffer(code)))(ctypes.addressof(cell), 1)
