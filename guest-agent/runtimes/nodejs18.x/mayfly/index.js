// Hooks of a function around the snapshot that it is started from.
//
//   const mayfly = require('mayfly');        // or: import { registerAfterRestore } from 'mayfly';
//
//   mayfly.registerBeforeSnapshot(() => pool.close());
//   mayfly.registerAfterRestore(async () => { pool = await connect(); });
//
// Register them while the module is loaded: what a handler registers is too late. Before-snapshot hooks
// run in the reverse order of registration, after-restore hooks in the order of registration, each
// awaited before the next. In a function that was not started from a snapshot none of them runs. A hook
// that throws ends the function's process; the error is what the host, or the invoker, gets.
'use strict';

const beforeSnapshot = [];
const afterRestore = [];

function register(list, hook) {
  if (typeof hook !== 'function') throw new TypeError('a hook is a function');
  list.push(hook);
  return hook;
}

/** Call @hook before the snapshot is taken. Returns it. */
exports.registerBeforeSnapshot = (hook) => register(beforeSnapshot, hook);

/** Call @hook in every process that the snapshot becomes, before its first event. Returns it. */
exports.registerAfterRestore = (hook) => register(afterRestore, hook);

/** The hooks in the order of registration. */
exports.getBeforeSnapshot = () => beforeSnapshot;
exports.getAfterRestore = () => afterRestore;
