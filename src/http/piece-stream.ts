/**
 * A body that is written piece by piece, no faster than it is read. `first` was asked for before the answer began, so that a
 * question that fails is an answer of its own; a later failure breaks the answer off. `onCancel`: its reader is gone.
 */
export function streamOfPieces(
  first: IteratorResult<string, unknown>,
  pieces: AsyncIterator<string, unknown>,
  onCancel = () => {},
): ReadableStream<Uint8Array> {
  const encoder = new TextEncoder()
  let next: IteratorResult<string, unknown> | undefined = first
  return new ReadableStream(
    {
      async pull(controller) {
        const piece = next ?? (await pieces.next())
        next = undefined
        if (piece.done === true) controller.close()
        else controller.enqueue(encoder.encode(piece.value))
      },
      async cancel() {
        onCancel()
        await pieces.return?.()
      },
    },
    { highWaterMark: 0 },
  )
}
