import { describe, expect, it } from 'vitest'
import { createOpenCalls } from '../../../src/gateway/open-calls.ts'

const ada = { issuer: 'https://login.example.com', userId: 'ada' }
const grace = { issuer: 'https://login.example.com', userId: 'grace' }

describe('P13: what was resolved before a cut and is not open yet', () => {
  it('is cut with it: of that person and upstream, of all upstreams, of everybody', () => {
    const calls = createOpenCalls()
    const before = calls.cuts()
    expect(calls.isCutSince(ada, 'files', before)).toBe(false)
    calls.cut(ada, 'files')
    expect(calls.isCutSince(ada, 'files', before)).toBe(true)
    expect(calls.isCutSince(ada, 'reports', before)).toBe(false)
    expect(calls.isCutSince(grace, 'files', before)).toBe(false)
    calls.cut(ada, undefined)
    expect(calls.isCutSince(ada, 'reports', before)).toBe(true)
    expect(calls.isCutSince(grace, 'files', before)).toBe(false)
    calls.cutAll()
    expect(calls.isCutSince(grace, 'files', before)).toBe(true)
  })

  it('is not, where it was resolved after it', () => {
    const calls = createOpenCalls()
    calls.cut(ada, 'files')
    calls.cutAll()
    const after = calls.cuts()
    calls.cut(grace, 'files')
    expect(calls.isCutSince(ada, 'files', after)).toBe(false)
    expect(calls.isCutSince(grace, 'files', after)).toBe(true)
  })
})

describe('who listens for another connection', () => {
  it('hears of their own, of one upstream or all, until they leave', () => {
    const calls = createOpenCalls()
    const heard: string[] = []
    const leave = calls.onChange(ada, 'files', () => heard.push('files'))
    calls.onChange(ada, 'reports', () => heard.push('reports'))
    calls.onChange(grace, 'files', () => heard.push('of grace'))
    calls.change(ada, 'files')
    expect(heard).toEqual(['files'])
    calls.change(ada, undefined)
    expect(heard).toEqual(['files', 'files', 'reports'])
    leave()
    calls.change(ada, undefined)
    expect(heard).toEqual(['files', 'files', 'reports', 'reports'])
  })
})
