export * from './activity.ts'
export * from './credential.ts'
export * from './replica.ts'
export * from './session.ts'
