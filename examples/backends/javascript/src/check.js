// Whether CSV guests can be started on this host, for a person who wants to mend what is missing.

import { fail, pass, quoted, warn } from './answer.js';
import { choose } from './firmware.js';
import { examine } from './host.js';
import { DEFAULT_MACHINE, noMeasurement } from './plan.js';
import { read } from './settings.js';

export function check(host, facts) {
  let settings;
  try {
    settings = read(host);
  } catch (error) {
    return [fail('settings.form', error)];
  }
  const findings = examine(host, facts, settings.generation).map(({ finding }) => finding);
  findings.push(machineFinding(facts.machine));
  // A request may name another firmware, so a missing default is no failure of the host.
  try {
    findings.push(pass('firmware.choice', 'firmware', choose(host).words));
  } catch (error) {
    findings.push({ ...fail('firmware.choice', error), severity: 'warn' });
  }
  findings.push(noMeasurement());
  return findings;
}

// A missing grant is no statement about the host.
function machineFinding({ value, failure, reason }) {
  const about = (detail, remedy) => warn('qemu.machine', 'machine', detail, remedy);
  switch (failure) {
    case undefined:
      return pass('qemu.machine', 'machine', `machine ${DEFAULT_MACHINE} is ${quoted(value)}`);
    case 'denied':
      return about(
        'the backend may not ask for the versioned name of the machine',
        'add qemu-machine * to the grants of csv-javascript',
      );
    case 'absent':
      return about(
        `this QEMU has no machine ${DEFAULT_MACHINE}`,
        'install a QEMU for x86 that has it, or name another machine in each request',
      );
    default:
      return about(
        `QEMU did not tell its machines: ${quoted(reason ?? '')}`,
        "see the daemon's log for what QEMU said",
      );
  }
}
