import { atlassian } from './atlassian.ts'
import { github } from './github.ts'
import { google } from './google.ts'
import { microsoft } from './microsoft.ts'
import type { Preset } from './preset.ts'
import { slack } from './slack.ts'

export const presetNames = ['atlassian', 'github', 'google', 'microsoft', 'slack'] as const
type PresetName = (typeof presetNames)[number]

export const presets: Readonly<Record<PresetName, Preset>> = {
  atlassian,
  github,
  google,
  microsoft,
  slack,
}
