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

local forms = { ["4 4 4 1 "] = true, ["4 4 4 2 "] = true, ["4 4 4 3 "] = true, ["4 4 4 4 "] = true, ["4 4 4 4 1 "] = true, ["4 4 4 4 2 "] = true, ["4 4 4 4 3 "] = true, ["4 6 4 "] = true, ["4 6 5 "] = true, ["6 13 "] = true, }
-- A form has at most so many groups. So many may have the same gap if some of them are to be a card number and not a row of a table.
local longest_form, most_groups = 5, 6

local function is_hexadecimal(left, right)
  return (left ~= "" and right ~= "") or (left .. right):find("%d") ~= nil
end

local function is_expiry(group)
  local month = tonumber(group:sub(1, 2))
  return #group == 4 and month >= 1 and month <= 12
end

-- Calls `found` with each number that is written in the groups from `first` to `last`, which have the same gap.
local function in_groups(groups, first, last, whole, found)
  for start = first, last - 1 do
    local lengths, digits = #groups[start] .. " ", groups[start]
    for stop = start + 1, math.min(last, start + longest_form - 1) do
      lengths, digits = lengths .. #groups[stop] .. " ", digits .. groups[stop]
      if forms[lengths] then
        local alone = (start == first or #groups[start - 1] ~= 4) and (stop == last or #groups[stop + 1] ~= 4 or is_expiry(groups[stop + 1]))
        found(digits, lengths, start == 1, whole and alone)
      end
    end
  end
end

-- Calls `found` with each number in a run of digits and separators, its form, whether it begins the run, and whether it is whole: what is
-- not whole is only the end of something. `left` and `right` are what stands on both sides of the run.
local function numbers_in(run, left, right, found)
  local groups, gaps = split(run)
  local hex_left, hex_right = left:match("%x*$"), run:find("%d$") and right:match("^%x*") or ""
  local fraction, phone = left:find("%d%.$"), left:find("%+$")
  for index, group in ipairs(groups) do
    if #group >= fewest then
      local before, after = index == 1 and hex_left or "", index == #groups and hex_right or ""
      local barred = index == 1 and (fraction or (phone and #group <= 15)) or is_hexadecimal(before, after)
      for length = fewest, math.min(most, #group) do
        local begin = group:byte(#group - length + 1)
        if begin >= 50 and begin <= 54 then
          found(group:sub(-length), "one group", index == 1, length == #group and not barred)
        end
      end
    end
  end
  local first = 1
  for last = 1, #groups do
    local next_gap = gaps[last + 1]
    if not next_gap or #next_gap > widest or (last > first and next_gap ~= gaps[last]) then
      local touched = (first == 1 and (fraction or phone or hex_left ~= "")) or (last == #groups and hex_right ~= "")
      if last > first then in_groups(groups, first, last, last - first < most_groups and not touched, found) end
      -- The last group of one stretch may be the first one of the next.
      first = next_gap and #next_gap <= widest and last > first and last or last + 1
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
  for start, run, stop in text:gmatch("()(%d[%d% %\t%-]*)()") do
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
  return { ["payload"] = tostring(true), ["flowvar"] = { "cut.card-number-leaving-app-cde", "seen.card-number-leaving-app-cde" } }
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
  local worked, found = pcall(is_leak, arguments["payload"])
  return (found or not worked) and 1 or 0
end

return 0
