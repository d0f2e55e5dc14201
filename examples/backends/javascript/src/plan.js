// A request and the facts become a launch plan.
//
// What the operator or the caller named is used, or the plan fails; what nobody named is replaced, with
// a finding that says so. And no input makes it throw anything but the contract's error.

import { invalidRequest, note, quoted, unavailable, unsuitableFile, unsupportedHost, warn } from './answer.js';
import { GUEST_TYPE, SEV_DEVICE } from './facts.js';
import { choose, mustCheckKernels } from './firmware.js';
import { examine } from './host.js';
import { GENERATIONS, read } from './settings.js';

export const DEFAULT_MACHINE = 'q35';
// Only the host's own model has what KVM can do for an encrypted guest.
const DEFAULT_CPU = 'host';
const GUARD = 'csv0';
// The policy's first bit: nobody may debug the guest.
const NO_DEBUG = 1 << 0;
// What QEMU needs beside the guest's memory.
const OVERHEAD_BYTES = 256n << 20n;
const QEMU_NAME = /^[A-Za-z0-9][A-Za-z0-9._+-]{0,127}$/;

const unsigned = (val) => ({ tag: 'unsigned', val: BigInt(val) });
const boolean = (val) => ({ tag: 'boolean', val });

export function plan(request, facts) {
  const { host } = request;
  const settings = read(host);
  const findings = [];
  for (const { finding, error } of examine(host, facts, settings.generation)) {
    if (error !== undefined) {
      throw error;
    }
    if (finding.severity !== 'pass') {
      findings.push(finding);
    }
  }
  refuseIdentity(request);
  mustBeShared(request.devices);
  const machine = machineOf(facts, request.machine);
  const cpu = cpuOf(request.cpu);
  findings.push(...replaced(request));
  const chosen = choose(host);
  const boot = bootOf(request);
  mustBeUsed(request, boot, chosen.used);
  if (boot.kernel) {
    mustCheckKernels(chosen.file);
  }
  if (settings.debug) {
    findings.push(
      warn('csv.debug', 'debug', 'the host may look into this guest', 'set debug to off'),
    );
  }
  findings.push(noMeasurement());
  return {
    machine,
    cpu,
    smp: [],
    memory: [],
    memoryBackend: undefined,
    objects: [guard(settings, boot)],
    extraDevices: [],
    guard: GUARD,
    firmware: chosen.firmware,
    boot,
    devices: {
      transport: 'pci',
      // The guest shares buffers with the host, and says where they are.
      virtioProperties: [
        { path: 'disable-legacy', value: { tag: 'text', val: 'on' } },
        { path: 'iommu_platform', value: boolean(true) },
      ],
      refused: ['vfio'],
    },
    generated: [],
    leases: [{ name: GENERATIONS[settings.generation].lease, amount: 1 }],
    // The firmware of the guest is measured once, so there is no reset.
    abilities: ['pause', 'powerdown'],
    memoryOverheadBytes: OVERHEAD_BYTES,
    identityCarrier: undefined,
    findings,
    extras: [],
  };
}

function guard(settings, boot) {
  const { policy } = GENERATIONS[settings.generation];
  const properties = [
    { path: 'cbitpos', value: unsigned(settings.cbit) },
    { path: 'reduced-phys-bits', value: unsigned(settings.reducedBits) },
    { path: 'policy', value: unsigned(policy | (settings.debug ? 0 : NO_DEBUG)) },
    { path: 'sev-device', value: { tag: 'host-path', val: SEV_DEVICE } },
  ];
  if (boot.kernel) {
    properties.push({ path: 'kernel-hashes', value: boolean(true) });
  }
  return { kind: GUEST_TYPE, id: GUARD, properties };
}

// A launch of CSV takes no data of the host's choice that a report would have.
function refuseIdentity(request) {
  if (request.identity !== undefined) {
    throw invalidRequest(
      'identity',
      'nothing in the launch of a CSV guest carries an identity',
      'leave the identity out, or choose a backend that carries one',
    );
  }
}

// What the operator set for a device wins over the plan's rules, so it is held against them.
function mustBeShared(devices) {
  for (const device of devices) {
    for (const { path, value } of device.properties) {
      const isOn = value.val === true || ['on', 'yes', 'true', 'y'].includes(value.val);
      if (['disable-legacy', 'iommu_platform'].includes(path) && !isOn) {
        throw invalidRequest(
          path,
          `device ${quoted(device.id)} has ${path} off, and a CSV guest cannot use it then`,
          `leave ${path} to the backend`,
        );
      }
    }
  }
}

// A caller's file that is left lying would be a wish that was dropped.
function mustBeUsed(request, boot, used) {
  const isUsed = ({ id, role }) => {
    switch (role) {
      case 'kernel':
        return boot.kernel;
      case 'initrd':
        return boot.initrd;
      case 'disk':
        return request.boot === 'disk';
      default:
        return role.startsWith('setting:') || used.includes(id);
    }
  };
  const left = request.host.files.find((file) => file.origin === 'request' && !isUsed(file));
  if (left !== undefined) {
    throw invalidRequest(
      left.role,
      `a CSV guest that boots from its ${request.boot} has no use for the ${left.role} ${quoted(left.label)}`,
      'leave the file out, or ask for another boot',
    );
  }
}

// What nobody named is the host's default for every backend, and gives way to this one's own.
const isDefault = (choice) => choice?.origin === 'built-in';

export const wanted = (choice, fallback) =>
  choice === undefined || isDefault(choice) ? fallback : choice.value;

// What was replaced is told.
function replaced({ machine, cpu }) {
  const told = (id, subject, words, choice, own) =>
    isDefault(choice) && choice.value !== own
      ? [
          note(
            id,
            subject,
            `the default ${words} ${quoted(choice.value)} became ${own}`,
            `name a ${words} in the request, or set one for all VMs`,
          ),
        ]
      : [];
  return [
    ...told('machine.replaced', 'machine', 'machine', machine, DEFAULT_MACHINE),
    ...told('cpu.model-replaced', 'cpu', 'CPU model', cpu, DEFAULT_CPU),
  ];
}

function nameOf(field, choice, fallback) {
  const name = wanted(choice, fallback);
  if (!QEMU_NAME.test(name)) {
    throw invalidRequest(
      field,
      `${quoted(name)} is not the name of a ${field}, which is one word`,
      `name a ${field} such as ${fallback}, without properties`,
    );
  }
  return name;
}

// By its version, because the machine is a part of what a guest sees.
function machineOf(facts, choice) {
  const name = nameOf('machine', choice, DEFAULT_MACHINE);
  const remedy = 'name q35, or a version of it such as pc-q35-7.2';
  const { value, failure, reason } = facts.machine;
  if (failure === 'denied') {
    throw unsupportedHost(
      'machine',
      'the backend may not ask for the versioned name of the machine',
      'add qemu-machine * to the grants of csv-javascript',
    );
  }
  if (failure === 'failed') {
    throw unavailable(
      'machine',
      `QEMU did not tell its machines: ${quoted(reason)}`,
      "see the daemon's log for what QEMU said, and try again",
    );
  }
  if (failure === 'absent') {
    throw invalidRequest('machine', `this QEMU has no machine ${quoted(name)}`, remedy);
  }
  if (!value.startsWith('pc-q35-') || !QEMU_NAME.test(value)) {
    throw invalidRequest('machine', `machine ${quoted(value)} is no q35, which CSV guests need`, remedy);
  }
  return { kind: value, id: undefined, properties: [] };
}

function cpuOf(choice) {
  return { kind: nameOf('cpu', choice, DEFAULT_CPU), id: undefined, properties: [] };
}

function bootOf(request) {
  const { files } = request.host;
  const has = (role) => files.some((file) => file.role === role);
  switch (request.boot) {
    case 'kernel': {
      const kernel = files.find((file) => file.role === 'kernel');
      if (kernel === undefined) {
        throw unsupportedHost(
          'kernel',
          'boot is kernel, but there is no kernel file',
          'name a kernel, or boot from disk',
        );
      }
      if (kernel.size === 0n) {
        throw unsuitableFile(
          'kernel',
          `kernel ${quoted(kernel.label)} is empty`,
          'name a kernel image (bzImage)',
        );
      }
      return { kernel: true, initrd: has('initrd'), cmdline: request.kernelCmdline !== '' };
    }
    case 'disk':
      if (!has('disk') && !request.devices.some((device) => device.kind === 'disk')) {
        throw unsupportedHost(
          'disk',
          'boot is disk, but there is no disk',
          'name a disk, or boot from a kernel',
        );
      }
      return { kernel: false, initrd: false, cmdline: false };
    default:
      throw invalidRequest(
        'boot',
        `boot is ${quoted(request.boot)}, wanted is kernel or disk`,
        'set boot to kernel or disk',
      );
  }
}

// Said with every plan and by `check`, so that nobody takes silence for a measurement.
export const noMeasurement = () =>
  note(
    'measurement.none',
    'backend',
    'this backend does not compute what a verifier will see',
    "compute the launch measurement with the maker's tools",
  );
