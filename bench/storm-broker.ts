import { createBroker } from '../dist/index.js'
import { answerStorms } from './storm-child.ts'
import { tokenOf } from './storm-people.ts'

/** The broker as `serve` runs it; callers in this process use what `POST /api/v1/resolve` uses, without HTTP. */
const broker = await createBroker(JSON.parse(process.env['BROKER_CONFIG'] ?? '') as object)
const url = await broker.listen()
const secret = process.env['ISSUER_SECRET'] ?? ''

const resolve = async (person: string) =>
  broker.resolver.resolve({ upstream: 'files', subjectToken: await tokenOf(person, secret) })

answerStorms(Number(new URL(url).port), { acquire: resolve, read: resolve })
process.on('SIGTERM', () => void broker.stop().then(() => process.exit(0)))
