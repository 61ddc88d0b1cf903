-- Detector card-number-leaving-app-cde: matches when 1 different card number(s) have left on this connection.
-- A number consists of whole groups of digits. Digits inside a longer run, a decimal fraction or a hexadecimal string are no number.
-- A tab may also stand between two columns of a table. So a number with a tab in it must begin with a group of four digits.
local at_least, fewest, most, widest = 1, 13, 19, 2
local issued = {
  { 4000, 4999, { [13] = true, [16] = true, [19] = true, } }, -- Visa
  { 5100, 5599, { [16] = true, } }, -- Mastercard
  { 2221, 2720, { [16] = true, } }, -- Mastercard
  { 3400, 3499, { [15] = true, } }, -- American Express
  { 3700, 3799, { [15] = true, } }, -- American Express
  { 3000, 3059, { [14] = true, [16] = true, [17] = true, [18] = true, [19] = true, } }, -- Diners Club
  { 3095, 3095, { [14] = true, [16] = true, [17] = true, [18] = true, [19] = true, } }, -- Diners Club
  { 3600, 3699, { [14] = true, [16] = true, [17] = true, [18] = true, [19] = true, } }, -- Diners Club
  { 3800, 3999, { [14] = true, [16] = true, [17] = true, [18] = true, [19] = true, } }, -- Diners Club
  { 6011, 6011, { [16] = true, [17] = true, [18] = true, [19] = true, } }, -- Discover
  { 6440, 6599, { [16] = true, [17] = true, [18] = true, [19] = true, } }, -- Discover
  { 3528, 3589, { [16] = true, [17] = true, [18] = true, [19] = true, } }, -- JCB
  { 6200, 6299, { [16] = true, [17] = true, [18] = true, [19] = true, } }, -- UnionPay
}

local function has_issuer(digits)
  local prefix = tonumber(digits:sub(1, 4))
  for _, range in ipairs(issued) do
    if prefix >= range[1] and prefix <= range[2] and range[3][#digits] then return true end
  end
  return false
end

local function has_check_digit(digits)
  local total = 0
  for position = 0, #digits - 1 do
    local digit = digits:byte(#digits - position) - 48
    if position % 2 == 1 then digit = digit * 2 end
    if digit > 9 then digit = digit - 9 end
    total = total + digit
  end
  return total % 10 == 0
end

-- Adds the numbers in `text` to `seen` and returns how many were new.
local function count_new(text, seen)
  local count = 0
  for from, run, to in text:gmatch("()(%d[%d% %\t%-]*)()") do
    local groups, gaps, past = {}, {}, 1
    for start, group, stop in run:gmatch("()(%d+)()") do
      groups[#groups + 1], gaps[#gaps + 1] = group, run:sub(past, start - 1)
      past = stop
    end
    local before = text:sub(math.max(from - 2, 1), from - 1)
    local fraction = before:match("%d%.$")
    local hexadecimal = #groups == 1 and before:match("[A-Fa-f]$") and text:match("^[A-Fa-f]", to)
    for first = (fraction or hexadecimal) and 2 or 1, #groups do
      local digits = ""
      for last = first, #groups do
        local gap = last > first and gaps[last] or ""
        if #gap > widest or (gap:find("\t") and #groups[first] ~= 4) then break end
        digits = digits .. groups[last]
        if #digits > most then break end
        if #digits >= fewest and not seen[digits] and has_issuer(digits) and has_check_digit(digits) then
          seen[digits] = true
          count = count + 1
        end
      end
    end
  end
  return count
end

function init()
  return { ["buffer"] = tostring(true) }
end

function match(args)
  local seen = {}
  return count_new(args["buffer"], seen) > 0 and 1 or 0
end

return 0
