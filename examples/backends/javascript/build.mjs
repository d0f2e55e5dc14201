// Makes the component: `node build.mjs WIT OUTPUT`, with WIT the contract's folder.
//
// Of what the JavaScript engine can do, HTTP is left out: the host offers none. What is left imports
// WASI 0.2, which the tier `std` of the host has.

import { writeFile } from 'node:fs/promises';
import { fileURLToPath } from 'node:url';

import { componentize } from '@bytecodealliance/componentize-js';

const [witPath, output] = process.argv.slice(2);
if (output === undefined) {
  console.error('usage: node build.mjs WIT OUTPUT');
  process.exit(64);
}

const { component } = await componentize({
  sourcePath: fileURLToPath(new URL('src/backend.js', import.meta.url)),
  witPath,
  worldName: 'tee-backend',
  disableFeatures: ['http', 'fetch-event'],
});
await writeFile(output, component);
