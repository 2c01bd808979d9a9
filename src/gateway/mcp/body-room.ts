import { type PersonId, personKey } from '../../core/caller.ts'

/**
 * Room in memory for the large bodies of one person: a message is read to its end before anything can be said of it, and a hundred
 * of the largest at once would take the memory of everybody. Whoever finds none waits for the person's own others.
 */
export type BodyRoom = {
  /** Resolves when there is room for so many bytes. One body finds room alone, however large it is. */
  readonly take: (person: PersonId, bytes: number) => Promise<TakenRoom>
}

export type TakenRoom = {
  /** It turned out to be smaller. */
  readonly keep: (bytes: number) => void
  readonly leave: () => void
}

const bytesAPerson = 128 * 1024 * 1024

type Room = {
  taken: number
  readonly waiting: { readonly bytes: number; readonly enter: () => void }[]
}

export function createBodyRoom(): BodyRoom {
  const rooms = new Map<string, Room>()

  function hasSpace({ taken }: Room, bytes: number): boolean {
    return taken === 0 || taken + bytes <= bytesAPerson
  }

  function free(key: string, room: Room, bytes: number): void {
    room.taken -= bytes
    for (let next = room.waiting[0]; next !== undefined; next = room.waiting[0]) {
      if (!hasSpace(room, next.bytes)) return
      room.waiting.shift()
      room.taken += next.bytes
      next.enter()
    }
    if (room.taken === 0) rooms.delete(key)
  }

  return {
    async take(person, bytes) {
      const key = personKey(person)
      const room = rooms.get(key) ?? { taken: 0, waiting: [] }
      rooms.set(key, room)
      if (room.waiting.length === 0 && hasSpace(room, bytes)) room.taken += bytes
      else await new Promise<void>((enter) => room.waiting.push({ bytes, enter }))
      let held = bytes
      function keep(fewer: number): void {
        const given = held - fewer
        held = fewer
        free(key, room, given)
      }
      return { keep, leave: () => keep(0) }
    },
  }
}
