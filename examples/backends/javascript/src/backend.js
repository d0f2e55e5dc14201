// A backend for guests of Hygon CSV: the contract's `tee-backend` in JavaScript.
//
//   describe -> describe.js             what the backend is and may have at most
//   check    -> facts.js, check.js      can this host do it, and what is to mend
//   plan     -> facts.js, plan.js       a request and the facts become a launch plan
//               settings.js             the settings, announced and read in one place
//
// Only this file and firmware.js call the host. Everything else turns values into values.

import { check } from './check.js';
import { describe } from './describe.js';
import { gather } from './facts.js';
import { DEFAULT_MACHINE, plan, wanted } from './plan.js';

export const backend = {
  describe,
  check: (host) => check(host, gather(DEFAULT_MACHINE)),
  // What `plan` throws is the contract's `error`.
  plan: (request) => plan(request, gather(wanted(request.machine, DEFAULT_MACHINE))),
};
