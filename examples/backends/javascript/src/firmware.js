// The firmware of the guest, and whether it checks the kernel that QEMU gives it.

import { read } from 'casemate:tee/files@1.0.0';

import { invalidRequest, quoted, unsuitableFile } from './answer.js';

// OVMF for encrypted guests says at its end, in a table of GUIDs, where QEMU is to write the hashes
// of kernel, initrd and command line. QEMU refuses another one with `kernel-hashes`.
// 7255371f-3a3b-4b04-927b-1da6efa8d454, in the byte order of UEFI.
const HASH_TABLE = [
  0x1f, 0x37, 0x55, 0x72, 0x3b, 0x3a, 0x04, 0x4b, 0x92, 0x7b, 0x1d, 0xa6, 0xef, 0xa8, 0xd4, 0x54,
];
// Before the GUID of an entry are its length (u16) and its data: address and size (u32). Images for
// other guests have the entry too, with zeros.
const ADDRESS_BEFORE = 10;
const SIZE_BEFORE = 6;
// What QEMU writes there.
const SMALLEST_SIZE = 176;
// The table ends 32 bytes before the end of the image and has a few entries of some dozen bytes.
const TABLE_REACH = 4096n;

const fileOf = (host, role) => host.files.find((file) => file.role === role);

// Whose word counts more.
const RANKS = { request: 2, operator: 1, 'built-in': 0 };
const rankOf = (file) => (file === undefined ? -1 : RANKS[file.origin]);

// The firmware of the request: a pair of flash chips, or one image. What the caller named comes before
// what the operator has for everybody, and that before what merely lies on the host.
export function choose(host) {
  const code = fileOf(host, 'firmware-code');
  const image = fileOf(host, 'firmware');
  const isWanted = rankOf(image) > rankOf(code);
  if (code !== undefined && !isWanted) {
    const vars = fileOf(host, 'firmware-vars');
    return {
      file: code,
      used: vars === undefined ? [code.id] : [code.id, vars.id],
      firmware: {
        tag: 'pflash',
        val: {
          code: code.id,
          varsTemplate: vars?.id,
          options: [{ path: 'code.readonly', value: { tag: 'boolean', val: true } }],
        },
      },
      words: `the guest starts with ${quoted(code.label)} in flash`,
    };
  }
  if (image !== undefined) {
    return {
      file: image,
      used: [image.id],
      firmware: { tag: 'bios', val: image.id },
      words: `the guest starts with ${quoted(image.label)}`,
    };
  }
  throw invalidRequest(
    'firmware',
    'a CSV guest starts with an OVMF image, and there is none',
    'name an OVMF image for SEV guests as the firmware',
  );
}

// Throws where the firmware would start a kernel that nobody checks.
export function mustCheckKernels(file) {
  const start = file.size > TABLE_REACH ? file.size - TABLE_REACH : 0n;
  let end;
  try {
    end = read(file.id, start, Number(TABLE_REACH));
  } catch (error) {
    throw unsuitableFile(
      file.role,
      `firmware ${quoted(file.label)} cannot be read: ${quoted(String(error?.payload ?? error))}`,
      'name a firmware that can be read',
    );
  }
  const view = new DataView(end.buffer, end.byteOffset, end.byteLength);
  const isEntry = (offset) =>
    HASH_TABLE.every((byte, index) => end[offset + index] === byte) &&
    view.getUint32(offset - ADDRESS_BEFORE, true) !== 0 &&
    view.getUint32(offset - SIZE_BEFORE, true) >= SMALLEST_SIZE;
  for (let offset = ADDRESS_BEFORE; offset + HASH_TABLE.length <= end.length; offset += 1) {
    if (isEntry(offset)) {
      return;
    }
  }
  throw unsuitableFile(
    file.role,
    `firmware ${quoted(file.label)} has no place for the hashes of a kernel, so it would start any`,
    'name an OVMF image that is built as AmdSev, or boot from disk',
  );
}
