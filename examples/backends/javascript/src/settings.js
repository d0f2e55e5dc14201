// The settings of this backend: their announcement and their reading, side by side.

import { invalidRequest, quoted } from './answer.js';

const GENERATION = 'generation';
const DEBUG = 'debug';
const CBIT = 'cbitpos';
const REDUCED_BITS = 'reduced-phys-bits';

// Of each generation of CSV: the policy's bit, the kernel module's switch and the name of what the
// kernel counts. CSV2 protects the guest's registers too.
export const GENERATIONS = {
  csv: { policy: 0, fact: 'sev', lease: 'sev' },
  csv2: { policy: 1 << 2, fact: 'sevEs', lease: 'sev_es' },
};
const DEFAULT_GENERATION = 'csv2';
// As Hygon's CPUs have it. QEMU holds it against the CPU, and refuses another.
const DEFAULT_CBIT = 47n;
// The bit itself takes one. QEMU takes 1 to 63, whatever the CPU has, and what is more than 1 takes address space
// from the guest for nothing.
const DEFAULT_REDUCED_BITS = 1n;
// An address has no further bits.
const MOST_BITS = 63n;

export const announced = () => [
  {
    key: GENERATION,
    kind: `one-of:${Object.keys(GENERATIONS).join('|')}`,
    default: { tag: 'text', val: DEFAULT_GENERATION },
    description: 'Generation of CSV. csv2 encrypts the registers of the guest too.',
    perRequest: true,
  },
  {
    key: DEBUG,
    kind: 'boolean',
    default: { tag: 'boolean', val: false },
    description: 'Whether the host may look into the guest: it then protects nothing.',
    perRequest: false,
  },
  bits(CBIT, DEFAULT_CBIT, 'Bit of an address that means encrypted: CPUID leaf 0x8000001f, EBX 5:0.'),
  bits(REDUCED_BITS, DEFAULT_REDUCED_BITS, 'Bits of an address that the guest loses: 1 is enough.'),
];

function bits(key, val, description) {
  return { key, kind: 'unsigned', default: { tag: 'unsigned', val }, description, perRequest: false };
}

// A key that is not there has its default; an unknown key is not ours to judge.
export function read(host) {
  const find = (key) => host.settings.find((setting) => setting.key === key)?.value;
  const generation = find(GENERATION) ?? { tag: 'text', val: DEFAULT_GENERATION };
  if (generation.tag !== 'text' || !Object.hasOwn(GENERATIONS, generation.val)) {
    const names = Object.keys(GENERATIONS).join(' or ');
    throw invalidRequest(
      GENERATION,
      `${GENERATION} is ${quoted(String(generation.val))}, wanted is ${names}`,
      `set ${GENERATION} to ${names}`,
    );
  }
  const debug = find(DEBUG) ?? { tag: 'boolean', val: false };
  if (debug.tag !== 'boolean') {
    throw invalidRequest(DEBUG, `${DEBUG} is no boolean`, `set ${DEBUG} to on or off`);
  }
  const number = (key, fallback, least) => {
    const given = find(key) ?? { tag: 'unsigned', val: fallback };
    if (given.tag !== 'unsigned' || given.val < least || given.val > MOST_BITS) {
      const range = `${least} to ${MOST_BITS}`;
      throw invalidRequest(key, `${key} is no number from ${range}`, `set ${key} to a number from ${range}`);
    }
    return given.val;
  };
  return {
    generation: generation.val,
    debug: debug.val,
    cbit: number(CBIT, DEFAULT_CBIT, 0n),
    reducedBits: number(REDUCED_BITS, DEFAULT_REDUCED_BITS, 1n),
  };
}
