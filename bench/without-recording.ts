/** Loads `no-recorder.js` in place of the recorder. */
export function resolve(
  specifier: string,
  context: unknown,
  next: (specifier: string, context: unknown) => unknown,
): unknown {
  if (!specifier.endsWith('/audit/recorder.js')) return next(specifier, context)
  return next(new URL('./no-recorder.js', import.meta.url).href, context)
}
