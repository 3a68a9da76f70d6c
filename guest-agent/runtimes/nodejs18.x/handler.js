// Finding and loading the handler: CommonJS and ES modules, by Lambda's rules.
// Source: AWS Lambda Developer Guide, "Define Lambda function handler in Node.js"; which file of
// several is taken, and the errors' names, as observed of Lambda's own runtime.
'use strict';

const fs = require('fs');
const path = require('path');
const { pathToFileURL } = require('url');
const { Fault } = require('./errors.js');

/** "dir/file.a.b" → {directory: "dir", file: "file", names: ["a", "b"]}. */
function splitName(name) {
  if (name.includes('..')) {
    throw new Fault(
      'Runtime.MalformedHandlerName',
      `'${name}' is not a valid handler name. Use absolute paths when specifying root directories in handler names.`,
    );
  }
  const base = path.basename(name);
  const dot = base.indexOf('.');
  if (dot < 0) throw new Fault('Runtime.MalformedHandlerName', 'Bad handler');
  return {
    directory: name.slice(0, name.lastIndexOf(base)),
    file: base.slice(0, dot),
    names: base.slice(dot + 1).split('.'),
  };
}

/** Whether the package.json that governs @directory says that .js files are ES modules. */
function isModulePackage(directory) {
  if (path.basename(directory) === 'node_modules') return false;
  const file = path.join(directory, 'package.json');
  if (fs.existsSync(file)) {
    try {
      return JSON.parse(fs.readFileSync(file, 'utf8')).type === 'module';
    } catch (error) {
      console.warn(`${file} cannot be read, it will be ignored for ES module detection purposes.`, error);
      return false;
    }
  }
  const parent = path.dirname(directory);
  return parent === directory ? false : isModulePackage(parent);
}

async function loadModule(root, directory, file) {
  const stem = path.resolve(root, directory, file);
  const load = (extension, isModule) =>
    isModule ? import(pathToFileURL(stem + extension).href) : require(stem + extension);
  const candidates = [
    ['', false],
    ['.js', isModulePackage(path.dirname(stem))],
    ['.mjs', true],
    ['.cjs', false],
  ];
  for (const [extension, isModule] of candidates) {
    if (fs.existsSync(stem + extension)) return load(extension, isModule);
  }
  return require(require.resolve(file, { paths: [root, path.resolve(root, directory)] }));
}

async function loadUserModule(root, directory, file) {
  try {
    return await loadModule(root, directory, file);
  } catch (error) {
    if (error instanceof SyntaxError) {
      throw new Fault('Runtime.UserCodeSyntaxError', String(error), error);
    }
    if (error?.code === 'MODULE_NOT_FOUND' || error?.code === 'ERR_MODULE_NOT_FOUND') {
      throw new Fault('Runtime.ImportModuleError', String(error), error);
    }
    throw error;
  }
}

/** Returns the function that @name, such as "index.handler", means below @root. */
async function loadHandler(root, name) {
  const { directory, file, names } = splitName(name);
  const exported = await loadUserModule(root, directory, file);
  const found = names.reduce((value, key) => value?.[key], exported);
  if (!found) throw new Fault('Runtime.HandlerNotFound', `${name} is undefined or not exported`);
  if (typeof found !== 'function') throw new Fault('Runtime.HandlerNotFound', `${name} is not a function`);
  return found;
}

module.exports = { loadHandler };
