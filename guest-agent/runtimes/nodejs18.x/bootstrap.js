// The nodejs18.x runtime: loads the handler once, then serves events, one at a time.
//
// Started by mayfly-agent as `node … bootstrap.js [preload]`, unprivileged, in /var/task, with messages
// on fd 3 and answers on fd 4 (../README.md has the layout). With `preload` it comes up without a
// function, says so, and waits for one (snapshot.js).
//
// Between two events it waits in read(2), not in the event loop: what a function left running stands
// still until the next event, as in Lambda, and an idle process uses no processor at all. An answer is
// given from the loop's next turn, so that a rejection nobody handles belongs to its own event.
'use strict';

const output = require('./output.js');
const errors = require('./errors.js');
const random = require('./random.js');
const stream = require('./stream.js');
const wire = require('./wire.js');
const { loadHandler } = require('./handler.js');

const RESPONSE_MAX = 6 << 20;

let handler;
let isStreaming = false;
let current = null; // the invocation that is under way
let failureKind = wire.INIT_ERROR; // what an error is that nobody catches
let snapshots = null; // snapshot.js, once there is a snapshot

function loadSnapshots() {
  snapshots ??= require('./snapshot.js');
  return snapshots;
}

// ---- one invocation ----

function parseContext(text, name) {
  if (!text) return undefined;
  try {
    return JSON.parse(text);
  } catch (e) {
    throw new errors.Fault('Runtime.LambdaContextUnmarshalError', `Unable to parse ${name} JSON: ${e.message}`);
  }
}

/** What of the context object is the same for callbacks, promises and streams. */
function makeContext(invocation, deadlineMs, arn, clientContext, identity) {
  const { env } = process;
  return {
    get callbackWaitsForEmptyEventLoop() {
      return invocation.waitsForEmptyLoop;
    },
    set callbackWaitsForEmptyEventLoop(value) {
      invocation.waitsForEmptyLoop = value;
    },
    functionVersion: env.AWS_LAMBDA_FUNCTION_VERSION,
    functionName: env.AWS_LAMBDA_FUNCTION_NAME,
    memoryLimitInMB: env.AWS_LAMBDA_FUNCTION_MEMORY_SIZE,
    logGroupName: env.AWS_LAMBDA_LOG_GROUP_NAME,
    logStreamName: env.AWS_LAMBDA_LOG_STREAM_NAME,
    clientContext: parseContext(clientContext, 'Client Context'),
    identity: parseContext(identity, 'Cognito Identity'),
    invokedFunctionArn: arn,
    awsRequestId: invocation.requestId,
    getRemainingTimeInMillis() {
      return Math.max(0, deadlineMs - Date.now());
    },
  };
}

/** The answer, from the next turn of the loop. Only the first one counts. */
function finish(invocation, kind, body) {
  if (invocation.isDone) return;
  invocation.isDone = true;
  invocation.onEmptyLoop = null;
  setImmediate(() => {
    current = null;
    wire.answer(kind, body);
    next();
  });
}

function fail(invocation, error) {
  if (invocation.isDone) return;
  output.logError('Invoke Error', error);
  finish(invocation, wire.ERROR, errors.encode(error));
}

function succeed(invocation, value) {
  if (invocation.isDone) return;
  let body;
  try {
    body = JSON.stringify(value === undefined ? null : value) ?? 'null';
  } catch {
    return fail(invocation, new errors.Fault('Runtime.MarshalError', 'Unable to stringify response body'));
  }
  // A character is at least one byte: what is short is not measured.
  const isTooLarge = body.length > RESPONSE_MAX / 3 && Buffer.byteLength(body) > RESPONSE_MAX;
  finish(invocation, isTooLarge ? wire.TOO_LARGE : wire.RESULT, isTooLarge ? '' : body);
}

function addCallbacks(invocation, context) {
  const done = (error, value) => {
    if (error !== undefined && error !== null) fail(invocation, error);
    else succeed(invocation, value);
  };
  context.succeed = (value) => done(null, value);
  context.fail = (error) => done(error ?? 'handled');
  context.done = done;
  return (error, value) => {
    if (invocation.hasCalledBack || invocation.isDone) return;
    invocation.hasCalledBack = true;
    if ((error !== undefined && error !== null) || !invocation.waitsForEmptyLoop) done(error, value);
    else invocation.onEmptyLoop = () => succeed(invocation, value);
  };
}

function isThenable(value) {
  return value !== null && value !== undefined && typeof value.then === 'function';
}

/** The loop has nothing left to do, and there is no answer: there never will be one. */
function giveUp(invocation) {
  if (!invocation.hasPromise) return succeed(invocation, null);
  fail(
    invocation,
    new errors.Fault(
      'Runtime.NodeJsExit',
      'Node.js exited before the handler finished: its promise is pending and nothing is left that could settle it',
    ),
  );
}

function streamHandler(invocation, context, event) {
  const giveUpStream = stream.run(
    handler,
    event,
    context,
    () => finish(invocation, wire.RESULT, ''),
    (error) => fail(invocation, error ?? 'handled'),
  );
  if (!invocation.isDone) invocation.onEmptyLoop = giveUpStream;
}

function runHandler(invocation, context, event) {
  const result = handler(event, context, addCallbacks(invocation, context));
  if (!isThenable(result)) return;
  invocation.hasPromise = true;
  result.then(
    (value) => succeed(invocation, value),
    (error) => fail(invocation, error ?? 'handled'),
  );
}

function serve(message) {
  const [requestId, arn, traceId, clientContext, identity, event] = message.parts.map(wire.text);
  const invocation = {
    requestId,
    waitsForEmptyLoop: true,
    isDone: false,
    hasCalledBack: false,
    hasPromise: false,
    onEmptyLoop: null,
  };
  current = invocation;
  output.setRequestId(requestId);
  invocation.onEmptyLoop = () => giveUp(invocation);
  if (traceId) process.env._X_AMZN_TRACE_ID = traceId;
  else delete process.env._X_AMZN_TRACE_ID;
  try {
    const context = makeContext(invocation, message.deadlineMs, arn, clientContext, identity);
    const run = isStreaming ? streamHandler : runHandler;
    run(invocation, context, JSON.parse(event));
  } catch (error) {
    fail(invocation, error);
  }
}

// ---- the life of the process ----

/** Takes messages until one needs the event loop. */
function next() {
  for (;;) {
    failureKind = wire.LAST_ERROR;
    const message = wire.read();
    if (message === null) process.reallyExit(0); // the agent has gone
    if (message.kind === wire.EVENT) return serve(message);
    const work = message.kind === wire.FREEZE ? freeze() : restore(message);
    if (work) {
      work.then(next);
      return;
    }
  }
}

/** The end of this process: tell why. */
function end(kind, error) {
  wire.answer(kind, errors.encode(error));
  process.exit(1);
}

/** Runs hooks, then @after. A promise only if a hook returned one: the loop is not turned without need. */
function runHooks(run, kind, name, after) {
  const failed = (error) => {
    output.logError(name, error);
    const { errorType, errorMessage } = errors.describe(error);
    end(kind, new errors.Fault(name, `${errorType}: ${errorMessage}`, error));
  };
  failureKind = kind;
  try {
    const pending = run();
    if (pending) return pending.then(after).catch(failed);
    after();
  } catch (error) {
    failed(error);
  }
  return null;
}

function freeze() {
  const { runBeforeSnapshot, settle } = loadSnapshots();
  return runHooks(runBeforeSnapshot, wire.FREEZE_ERROR, 'Runtime.BeforeSnapshotError', () => {
    settle(rehearse);
    wire.answer(wire.AT_REST);
  });
}

/** The first thing that happens in a clone. */
function restore(message) {
  const { setEnvironment, renew, runAfterRestore } = loadSnapshots();
  setEnvironment(wire.text(message.parts[0]));
  renew(message.parts[1]);
  return runHooks(runAfterRestore, wire.RESTORE_ERROR, 'Runtime.AfterRestoreError', () => {
    if (message.wantsAnswer) wire.answer(wire.AWAKE);
  });
}

/** Most of an invocation, without a trace: what it compiles and allocates is there when one comes. */
function rehearse() {
  const event = '{"text":"\\u00e9","numbers":[1,-2.5,1e3],"nothing":null,"yes":true,"deep":[[[[{}]]]]}';
  const trial = { requestId: '8476a536-e9f4-11e8-9739-2dfe598c3fcd', waitsForEmptyLoop: true, isDone: false };
  const context = makeContext(trial, 0, 'arn', '{"custom":{}}', '{"a":"b"}');
  addCallbacks(trial, context);
  JSON.stringify({ e: JSON.parse(event), t: context.getRemainingTimeInMillis() });
  output.rehearse();
  wire.rehearse();
}

function watchForErrors() {
  process.on('beforeExit', () => {
    const whenEmpty = current?.onEmptyLoop;
    if (!whenEmpty) return;
    current.onEmptyLoop = null;
    whenEmpty();
  });
  process.on('uncaughtException', (error) => {
    output.logError('Uncaught Exception', error);
    end(failureKind, error);
  });
  process.on('unhandledRejection', (reason) => {
    const error = errors.ofRejection(reason);
    output.logError('Unhandled Promise Rejection', error);
    end(failureKind, error);
  });
}

async function main() {
  const isPreload = process.argv[2] === 'preload';
  process.argv.length = 2;
  output.replaceStreams();
  output.patchConsole();
  random.install();
  stream.install();
  watchForErrors();
  if (isPreload) await loadSnapshots().waitForFunction(rehearse);
  handler = await loadHandler(process.env.LAMBDA_TASK_ROOT ?? '/var/task', process.env._HANDLER ?? '');
  isStreaming = stream.isStreaming(handler);
}

main().then(
  () =>
    setImmediate(() => {
      wire.answer(wire.READY);
      next();
    }),
  (error) => {
    output.logError('Uncaught Exception', error);
    end(wire.INIT_ERROR, error);
  },
);
