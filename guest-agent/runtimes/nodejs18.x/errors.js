// Errors as Lambda shapes them: {errorType, errorMessage, trace}.
'use strict';

const OWN_DIR = `${__dirname}/`;
const ENCODED_MAX = 256 << 10;
const SHORT_CHARACTERS = 4096;

/** The lines of a stack, up to where the runtime called the function. */
function frames(stack) {
  const lines = stack.split('\n');
  const own = lines.findIndex((line) => line.includes(OWN_DIR));
  return own < 0 ? lines : lines.slice(0, own);
}

/** An error with one of the names that Lambda has for it. @cause: whose stack is told, if any's. */
class Fault extends Error {
  constructor(errorType, message, cause) {
    super(message);
    const [, ...rest] = typeof cause?.stack === 'string' ? frames(cause.stack) : [''];
    Object.defineProperty(this, 'name', { value: errorType });
    Object.defineProperty(this, 'stack', { value: [`${errorType}: ${message}`, ...rest].join('\n') });
  }
}

function isErrorLike(value) {
  return [value?.name, value?.message, value?.stack].every((text) => typeof text === 'string');
}

/** Never throws, whatever was thrown. */
function describe(error) {
  try {
    if (isErrorLike(error)) {
      return { errorType: error.name, errorMessage: error.message, trace: frames(error.stack) };
    }
    return { errorType: typeof error, errorMessage: String(error), trace: [] };
  } catch {
    return {
      errorType: 'handled',
      errorMessage:
        'callback called with Error argument, but there was a problem while retrieving one or more of its message, name, and stack',
      trace: [],
    };
  }
}

/** JSON of at most ENCODED_MAX bytes. */
function encode(error) {
  const object = describe(error);
  const text = JSON.stringify(object);
  if (Buffer.byteLength(text) <= ENCODED_MAX) return text;
  return JSON.stringify({
    errorType: object.errorType.slice(0, SHORT_CHARACTERS),
    errorMessage: object.errorMessage.slice(0, SHORT_CHARACTERS),
    trace: [],
  });
}

function withOwnProperties(_, value) {
  if (!(value instanceof Error)) return value;
  const shown = { errorType: value.name, errorMessage: value.message, code: value.code, ...value };
  if (typeof value.stack === 'string') shown.stack = frames(value.stack);
  return shown;
}

/** For the log: what describe() has, and the properties that the error was given. */
function format(error) {
  try {
    return `\t${JSON.stringify(error instanceof Error ? error : new Error(error), withOwnProperties)}`;
  } catch {
    return `\t${encode(error)}`;
  }
}

/** A rejection that nobody handles. */
function ofRejection(reason) {
  const { errorType, errorMessage } = describe(reason);
  const message = isErrorLike(reason) ? `${errorType}: ${errorMessage}` : errorMessage;
  const fault = new Fault('Runtime.UnhandledPromiseRejection', message, reason);
  fault.reason = reason;
  return fault;
}

module.exports = { Fault, describe, encode, format, ofRejection };
