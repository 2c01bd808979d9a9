import { Lexer } from 'yaml'

const maxBrackets = 50
const maxIndicatorsPerLine = 50
const maxIndentation = 200
const beforeScalar = '\u001f'

/**
 * Whether a text nests more deeply than any configuration does. Asked before it is parsed: the parser recurses, and a
 * process that has run out of stack can die in V8 without an error to catch.
 */
export function nestsTooDeeply(text: string): boolean {
  let brackets = 0
  let indicators = 0
  let previous = '\n'
  for (const lexeme of new Lexer().lex(text)) {
    if (previous !== beforeScalar) {
      if (lexeme === '[' || lexeme === '{') brackets++
      else if (lexeme === ']' || lexeme === '}') brackets--
      else if (lexeme === '-' || lexeme === '?') indicators++
      else if (lexeme === '\n' || lexeme === '\r\n') indicators = 0
    }
    const isIndentation = previous.endsWith('\n') && /^ +$/.test(lexeme)
    if (brackets > maxBrackets || indicators > maxIndicatorsPerLine) return true
    if (isIndentation && lexeme.length > maxIndentation) return true
    previous = lexeme
  }
  return false
}
