-- Detector card-number-leaving-app-cde: matches when 1 different card number(s) have left on this connection.
--
-- A number is one group of digits, or several groups of the lengths in `forms` with the same gap between them. Digits in a longer run, a
-- decimal fraction, a hexadecimal string or a telephone number are no number.
local fewest, most, widest = 12, 19, 2
local issued = {
  { 4000, 4999, { [13] = "weak", [16] = "strong", [19] = "weak", } }, -- Visa
  { 5100, 5599, { [16] = "strong", } }, -- Mastercard
  { 2221, 2720, { [16] = "strong", } }, -- Mastercard
  { 3400, 3499, { [15] = "strong", } }, -- American Express
  { 3700, 3799, { [15] = "strong", } }, -- American Express
  { 3000, 3059, { [14] = "strong", [16] = "strong", [17] = "weak", [18] = "weak", [19] = "weak", } }, -- Diners Club
  { 3095, 3095, { [14] = "strong", [16] = "strong", [17] = "weak", [18] = "weak", [19] = "weak", } }, -- Diners Club
  { 3600, 3699, { [14] = "strong", [16] = "strong", [17] = "weak", [18] = "weak", [19] = "weak", } }, -- Diners Club
  { 3800, 3999, { [14] = "strong", [16] = "strong", [17] = "weak", [18] = "weak", [19] = "weak", } }, -- Diners Club
  { 6011, 6011, { [16] = "strong", [17] = "weak", [18] = "weak", [19] = "weak", } }, -- Discover
  { 6440, 6599, { [16] = "strong", [17] = "weak", [18] = "weak", [19] = "weak", } }, -- Discover
  { 3528, 3589, { [16] = "strong", [17] = "weak", [18] = "weak", [19] = "weak", } }, -- JCB
  { 6200, 6299, { [16] = "strong", [17] = "weak", [18] = "weak", [19] = "weak", } }, -- UnionPay
  { 5018, 5018, { [12] = "weak", [13] = "weak", [14] = "weak", [15] = "weak", [16] = "weak", [17] = "weak", [18] = "weak", [19] = "weak", } }, -- Maestro
  { 5020, 5020, { [12] = "weak", [13] = "weak", [14] = "weak", [15] = "weak", [16] = "weak", [17] = "weak", [18] = "weak", [19] = "weak", } }, -- Maestro
  { 5038, 5038, { [12] = "weak", [13] = "weak", [14] = "weak", [15] = "weak", [16] = "weak", [17] = "weak", [18] = "weak", [19] = "weak", } }, -- Maestro
  { 5893, 5893, { [12] = "weak", [13] = "weak", [14] = "weak", [15] = "weak", [16] = "weak", [17] = "weak", [18] = "weak", [19] = "weak", } }, -- Maestro
  { 6304, 6304, { [12] = "weak", [13] = "weak", [14] = "weak", [15] = "weak", [16] = "weak", [17] = "weak", [18] = "weak", [19] = "weak", } }, -- Maestro
  { 6759, 6763, { [12] = "weak", [13] = "weak", [14] = "weak", [15] = "weak", [16] = "weak", [17] = "weak", [18] = "weak", [19] = "weak", } }, -- Maestro
}

-- Whether a brand issues numbers that begin so and have this length: nil, "strong", or "weak" if many other numbers look like these.
local lengths_of = {}
local function issuer(digits)
  local prefix = digits:sub(1, 4)
  local lengths = lengths_of[prefix]
  if not lengths then
    lengths = {}
    for _, range in ipairs(issued) do
      if tonumber(prefix) >= range[1] and tonumber(prefix) <= range[2] then
        for length, kind in pairs(range[3]) do lengths[length] = lengths[length] == "strong" and "strong" or kind end
      end
    end
    lengths_of[prefix] = lengths
  end
  return lengths[#digits]
end

-- From the last digit on, digits count once and `times` in turn. With 2, the digits of a product are added (Luhn).
local function has_check_digit(digits, times)
  local total = 0
  for position = 0, #digits - 1 do
    local digit = digits:byte(#digits - position) - 48
    if position % 2 == 1 then digit = digit * times end
    if times == 2 and digit > 9 then digit = digit - 9 end
    total = total + digit
  end
  return total % 10 == 0
end

-- An article number (EAN) has 13 digits, too.
local function is_right(digits)
  return has_check_digit(digits, 2) and not (#digits == 13 and has_check_digit(digits, 3))
end

-- The groups of digits in a run, and the gap before each of them.
local function split(run)
  local groups, gaps, past = {}, {}, 1
  for start, group, stop in run:gmatch("()(%d+)()") do
    groups[#groups + 1], gaps[#gaps + 1] = group, run:sub(past, start - 1)
    past = stop
  end
  return groups, gaps
end

-- Calls `found` with each number in a run: any groups, one after the other.
local function numbers_in(run, _, _, found)
  local groups, gaps = split(run)
  for first = 1, #groups do
    local digits = ""
    for last = first, #groups do
      if last > first and #gaps[last] > widest then break end
      digits = digits .. groups[last]
      if #digits > most then break end
      if #digits >= fewest then found(digits, "any", first == 1, true) end
    end
  end
end

-- What makes a weak number one of a card: a word before it.
local words = { "card", "karte", "carte", "carta", "tarjeta", "kredit", "credit", "debit", "visa", "maestro", "amex", "diners", "discover", "unionpay", "%f[%a]jcb", "%f[%a]pan%f[%A]", "%f[%a]ccn?%f[%A]", }
local function speaks_of_cards(text, from)
  local before = text:sub(math.max(from - 200, 1), from - 1):lower()
  for _, word in ipairs(words) do
    if before:find(word) then return true end
  end
  return false
end

-- Suricata shows a long message in windows, and a window may begin in the middle of a number. `cut` holds the numbers of which an earlier
-- window showed that they are only the end of something. Returns the numbers of this window, and those that the next one might begin with.
local function card_numbers(text, cut)
  local right, alike, cut_off = {}, {}, {}
  local from, left
  local function found(digits, form, begins, whole)
    local kind = issuer(digits)
    if form == "one group" then
      if not kind then return end
      form = form .. #digits
    end
    if not whole then
      if kind and is_right(digits) then cut_off[#cut_off + 1] = digits end
    elseif not (begins and left == "" and cut[digits]) then
      local list = alike[form] or { count = 0 }
      alike[form] = list
      if not list[digits] then list[digits], list.count = true, list.count + 1 end
      if kind and is_right(digits) and (kind == "strong" or speaks_of_cards(text, from)) then
        right[form] = right[form] or {}
        right[form][digits] = true
      end
    end
  end
  for start, run, stop in text:gmatch("()(%d[%d% %\t%-%.]*)()") do
    if #run >= fewest then
      from, left = start, text:sub(math.max(start - 64, 1), start - 1)
      numbers_in(run, left, text:sub(stop, stop + 63), found)
    end
  end
  local numbers = {}
  for form, found in pairs(right) do
    local count = 0
    for _ in pairs(found) do count = count + 1 end
    -- Of any numbers, every tenth has the check digit of a card. Where it is about that many of a list, the list is not one of cards.
    if alike[form].count < 10 or count * 4 >= alike[form].count then
      for digits in pairs(found) do numbers[digits] = true end
    end
  end
  return numbers, cut_off
end

local function words_of(text)
  local set = {}
  for word in (text or ""):gmatch("%d+") do set[word] = true end
  return set
end

local function remember(variable, words)
  local text = table.concat(words, " ")
  ScFlowvarSet(variable, text, #text)
end

function init()
  return { ["buffer"] = tostring(true), ["flowvar"] = { "cut.card-number-leaving-app-cde", "seen.card-number-leaving-app-cde" } }
end

local function is_leak(text)
  local before = ScFlowvarGet(0)
  local numbers, cut_off = card_numbers(text, words_of(before))
  if #cut_off > 0 then
    for digits in (before or ""):gmatch("%d+") do
      if #cut_off < 300 then cut_off[#cut_off + 1] = digits end
    end
    remember(0, cut_off)
  end
  return next(numbers) ~= nil
end

function match(arguments)
  local worked, found = pcall(is_leak, arguments["buffer"])
  return (found or not worked) and 1 or 0
end

return 0
