// What a host must have: each entry is looked at by `check` as a finding and by `plan` as an error.

import { fail, pass, quoted, unsupportedHost, unavailable, warn } from './answer.js';
import { GUEST_TYPE, MODULE_SEV, MODULE_SEV_ES, SEV_DEVICE } from './facts.js';
import { GENERATIONS } from './settings.js';

const NAME = 'csv-javascript';
// `HygonGenuine`, as CPUID has it: EBX, EDX, ECX.
const HYGON = 'HygonGenuine';

const good = (id, subject, detail) => ({ finding: pass(id, subject, detail) });
const bad = (id, error) => ({ finding: fail(id, error), error });
const unknown = (id, subject, detail, remedy) => ({ finding: warn(id, subject, detail, remedy) });

// Not being allowed to look is no statement about the host: what it is decides QEMU's start.
const denied = (id, subject, grant) =>
  unknown(id, subject, `the backend may not look at ${subject}`, `add ${grant} to the grants of ${NAME}`);

function architecture(host) {
  if (host.architecture === 'x86_64') {
    return good('host.architecture', 'architecture', 'the host is x86_64');
  }
  return bad(
    'host.architecture',
    unsupportedHost(
      'architecture',
      `CSV is there on x86_64 only, and this host is ${quoted(host.architecture)}`,
      'choose another backend, or another host',
    ),
  );
}

function accelerator(host, facts) {
  const id = 'host.kvm';
  if (host.accelerator !== 'kvm') {
    return bad(
      id,
      unsupportedHost(
        'accelerator',
        `a CSV guest takes KVM, and the accelerator is ${quoted(host.accelerator)}`,
        'set qemu.accelerator to kvm',
      ),
    );
  }
  return looked(id, '/dev/kvm', facts.kvm, 'device /dev/kvm', 'load the kernel module kvm_amd');
}

function looked(id, subject, fact, grant, remedy) {
  switch (fact.failure) {
    case undefined:
      return good(id, subject, `${subject} can be used`);
    case 'denied':
      return denied(id, subject, grant);
    case 'absent':
      return bad(id, unsupportedHost(subject, `there is no ${subject}`, remedy));
    default:
      return bad(
        id,
        unavailable(subject, `${subject} cannot be used: ${quoted(fact.reason)}`, remedy),
      );
  }
}

function maker(facts) {
  const [id, subject] = ['host.cpu', 'cpuid 0x0'];
  const { value, failure } = facts.maker;
  if (failure === 'denied') {
    return denied(id, subject, 'cpuid 0x0');
  }
  const letters = (register) =>
    String.fromCharCode(...[0, 8, 16, 24].map((shift) => (register >>> shift) & 0xff));
  const found = value && [value.ebx, value.edx, value.ecx].map(letters).join('');
  if (found === HYGON) {
    return good(id, subject, 'the CPU is one of Hygon');
  }
  return bad(
    id,
    unsupportedHost(
      subject,
      `the CPU is ${found ? `one of ${quoted(found)}` : 'of an unknown maker'}, and CSV is Hygon's`,
      'choose the backend of this CPU, or another host',
    ),
  );
}

function module(facts, generation) {
  const { fact } = GENERATIONS[generation];
  const path = fact === 'sev' ? MODULE_SEV : MODULE_SEV_ES;
  const { value, failure, reason } = facts[fact];
  const remedy = `load kvm_amd with ${path.split('/').at(-1)}=1, on a kernel and a firmware with ${generation}`;
  if (failure === undefined && ['Y', '1'].includes(value.trim())) {
    return good('host.module', path, `KVM makes ${generation} guests`);
  }
  if (failure === 'denied') {
    return denied('host.module', path, `read-text ${path}`);
  }
  if (failure === 'failed') {
    return bad('host.module', unavailable(path, `${path} cannot be read: ${quoted(reason)}`, remedy));
  }
  return bad('host.module', unsupportedHost(path, `KVM makes no ${generation} guests here`, remedy));
}

function guestType(facts) {
  const [id, subject] = ['qemu.guest', `qemu-type ${GUEST_TYPE}`];
  const { value, failure, reason } = facts.guestType;
  switch (failure) {
    case undefined:
      return value.includes('kernel-hashes')
        ? good(id, subject, `QEMU has ${GUEST_TYPE} with kernel-hashes`)
        : bad(
            id,
            unsupportedHost(
              subject,
              `${GUEST_TYPE} of this QEMU has no kernel-hashes`,
              'install QEMU 6.2 or newer',
            ),
          );
    case 'denied':
      return denied(id, subject, subject);
    case 'absent':
      return bad(
        id,
        unsupportedHost(
          subject,
          `this QEMU has no object ${GUEST_TYPE}`,
          'install QEMU 6.2 or newer, built with SEV',
        ),
      );
    default:
      return bad(
        id,
        unavailable(
          subject,
          `QEMU did not tell its types: ${quoted(reason)}`,
          "see the daemon's log for what QEMU said",
        ),
      );
  }
}

// In the order in which an operator would mend it.
export const examine = (host, facts, generation) => [
  architecture(host),
  accelerator(host, facts),
  maker(facts),
  module(facts, generation),
  looked(
    'host.sev-device',
    SEV_DEVICE,
    facts.sevDevice,
    `device ${SEV_DEVICE}`,
    'load the kernel module ccp, which drives the security processor',
  ),
  guestType(facts),
];
