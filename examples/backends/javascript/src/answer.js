// Findings and errors, which all have the same shape: what, about what, and what to do.

const finding = (severity) => (id, subject, detail, remedy = '') => ({
  id,
  severity,
  subject,
  detail,
  remedy,
});

export const pass = finding('pass');
export const note = finding('note');
export const warn = finding('warn');

// An error is thrown as it is: the contract's record, not an `Error` of JavaScript, which the host
// would take for a fault.
const error = (tag) => (subject, message, remedy) => ({
  code: { tag },
  subject,
  message,
  remedy,
  details: [],
});

export const unsupportedHost = error('unsupported-host');
export const invalidRequest = error('invalid-request');
export const unsuitableFile = error('unsuitable-file');
export const unavailable = error('unavailable');

// The same as a finding of `check`.
export const fail = (id, error) => ({
  id,
  severity: 'fail',
  subject: error.subject,
  detail: error.message,
  remedy: error.remedy,
});

// Text of others for a message: what could end a line or drive a terminal is escaped, and nobody
// reads more than the beginning.
export function quoted(text) {
  const longest = 80;
  const shown = [...text].slice(0, longest).join('');
  return JSON.stringify(shown).replace(
    /[\u007f-\u009f\u202a-\u202e\u2066-\u2069]/g,
    (character) => `\\u${character.charCodeAt(0).toString(16).padStart(4, '0')}`,
  );
}
