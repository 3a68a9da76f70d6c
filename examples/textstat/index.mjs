// A Node.js handler, as an ES module: counts the words of a text, and names the clone that did it.
import { createHash, randomUUID } from 'crypto';
import { registerAfterRestore } from 'mayfly';

let clone = randomUUID(); // the same in every clone of the snapshot that is taken after this ...
registerAfterRestore(() => {
  clone = randomUUID(); // ... and different from here on
});

export const handler = async ({ text = '' }, context) => {
  const words = text.toLowerCase().match(/\p{L}+/gu) ?? [];
  const counts = {};
  for (const word of words) counts[word] = (counts[word] ?? 0) + 1;
  console.log('%d words, %d ms left', words.length, context.getRemainingTimeInMillis());
  const top = Object.entries(counts).sort(([a, m], [b, n]) => n - m || a.localeCompare(b));
  return { words: words.length, top: top.slice(0, 5), sha256: createHash('sha256').update(text).digest('hex'), clone };
};
