-- Detector order-list-leaving-app-cde, channel udp: matches when 3 match(es) of its pattern have left on this connection.
-- The script searches by itself, with the PCRE that Suricata has loaded: Suricata's option `pcre` treats a search that PCRE gives up
-- as a text without a match. Here, such a search and any other failure count as found.
local no_match, with_jit = -1, 1
local pattern = "SHOP-[0-9]{8}"
local pcre, code, limits, stack, ends, place

-- Suricata has one state of this script for each of its threads. Most of them never search, so the first search makes what it needs.
local function prepare()
  local ffi = require("ffi")
  ffi.cdef [[
    void *pcre2_compile_8(const char *, size_t, uint32_t, int *, size_t *, void *);
    int pcre2_jit_compile_8(void *, uint32_t);
    void *pcre2_match_context_create_8(void *);
    int pcre2_set_match_limit_8(void *, uint32_t);
    void *pcre2_jit_stack_create_8(size_t, size_t, void *);
    void pcre2_jit_stack_assign_8(void *, void *, void *);
    void *pcre2_match_data_create_8(uint32_t, void *);
    int pcre2_match_8(const void *, const char *, size_t, size_t, uint32_t, void *, void *);
    size_t *pcre2_get_ovector_pointer_8(void *);
    void pcre2_code_free_8(void *);
    void pcre2_match_context_free_8(void *);
    void pcre2_jit_stack_free_8(void *);
    void pcre2_match_data_free_8(void *);
  ]]
  pcre = ffi.load("libpcre2-8.so.0")
  local compiled = pcre.pcre2_compile_8(pattern, #pattern, 0, ffi.new("int[1]"), ffi.new("size_t[1]"), nil)
  if compiled == nil then error("PCRE does not take the pattern") end
  code = ffi.gc(compiled, pcre.pcre2_code_free_8)
  pcre.pcre2_jit_compile_8(code, with_jit)
  limits = ffi.gc(pcre.pcre2_match_context_create_8(nil), pcre.pcre2_match_context_free_8)
  pcre.pcre2_set_match_limit_8(limits, 100000000)
  stack = ffi.gc(pcre.pcre2_jit_stack_create_8(32768, 1048576, nil), pcre.pcre2_jit_stack_free_8)
  pcre.pcre2_jit_stack_assign_8(limits, nil, stack)
  ends = ffi.gc(pcre.pcre2_match_data_create_8(1, nil), pcre.pcre2_match_data_free_8)
  place = pcre.pcre2_get_ovector_pointer_8(ends)
end

-- Calls `found` with the first and the last byte of each match, until it returns true. Returns whether it did.
local function search(text, found)
  if not code then prepare() end
  local from = 0
  while from <= #text do
    local answer = pcre.pcre2_match_8(code, text, #text, from, 0, ends, limits)
    if answer == no_match then return false end
    if answer < 0 then return true end
    local first, past = tonumber(place[0]), tonumber(place[1])
    if found(first + 1, past) then return true end
    from = math.max(past, first + 1)
  end
  return false
end

function init()
  return { ["payload"] = tostring(true), ["flowvar"] = { "seen.order-list-leaving-app-cde.udp" } }
end

-- Suricata shows a message in windows that overlap, and says neither where a window begins nor how much of it is new. So a match is
-- known again by its own text and by what stands before it. Of matches that are alike in both, as many count as one window has.
local before, half, most_known = 32, 20, 1000

local function hash(text)
  local value = 5381
  for index = 1, #text do value = bit.bxor(bit.rol(value, 5) + text:byte(index), bit.rshift(value, 7)) end
  return string.char(bit.band(value, 255), bit.band(bit.rshift(value, 8), 255), bit.band(bit.rshift(value, 16), 255), bit.rshift(value, 24))
end

-- What is kept of a match: a hash of what stands before it, and its text, of a long one both ends.
local function kept(text, first, last)
  local own = text:sub(first, last)
  if #own > 2 * half then own = own:sub(1, half) .. own:sub(-half) end
  return { place = hash(text:sub(math.max(first - before, 1), first - 1)), own = own }
end

-- `known` maps a kept match to how often one window had it. `loose` is the match that touched the end of the last window that had
-- one: with more of the message it may become longer.
local function remembered()
  local state, known, loose, at = ScFlowvarGet(0) or "", {}, nil, 1
  while at + 7 < #state do
    local count, length = state:byte(at) * 256 + state:byte(at + 1), state:byte(at + 2)
    local place, own = state:sub(at + 3, at + 6), state:sub(at + 7, at + 6 + length)
    if count == 0 then loose = { place = place, own = own } else known[place .. own] = count end
    at = at + 7 + length
  end
  return known, loose
end

local function remember(known, loose)
  local parts = {}
  for key, count in pairs(known) do
    if #parts < most_known then
      parts[#parts + 1] = string.char(math.floor(count / 256), count % 256, #key - 4) .. key
    end
  end
  if loose then parts[#parts + 1] = string.char(0, 0, #loose.own) .. loose.place .. loose.own end
  local state = table.concat(parts)
  ScFlowvarSet(0, state, #state)
end

local function ends_alike(one, other)
  local length = math.min(#one, #other, half)
  return one:sub(-length) == other:sub(-length)
end

-- The key of a match. At the beginning of a window a part of it, or of what stands before it, may be cut off: there it is a match
-- that is known and ends alike, if there is one.
local function key_of(match, first, known)
  local key = match.place .. match.own
  if first > before or known[key] then return key end
  for other in pairs(known) do
    if ends_alike(other:sub(5), match.own) then return other end
  end
  return key
end

local function is_leak(text)
  local found = {}
  if search(text, function(first, last) found[#found + 1] = { first, last }; return false end) then return true end
  if #found == 0 then return false end
  local known, loose = remembered()
  local here, edge, total = {}, nil, 0
  for _, span in ipairs(found) do
    local match = kept(text, span[1], span[2])
    if loose and loose.place == match.place and loose.own:sub(1, half) == match.own:sub(1, math.min(#loose.own, half)) then loose = nil end
    local key = key_of(match, span[1], known)
    if span[2] == #text and not known[key] then edge = match else here[key] = (here[key] or 0) + 1 end
  end
  if loose then
    local key = loose.place .. loose.own
    here[key] = (here[key] or 0) + 1
  end
  for key, count in pairs(here) do known[key] = math.min(math.max(known[key] or 0, count), 65535) end
  for _, count in pairs(known) do total = total + count end
  if edge then total = total + 1 end
  remember(known, edge)
  return total >= 3
end

function match(arguments)
  local worked, found = pcall(is_leak, arguments["payload"])
  return (found or not worked) and 1 or 0
end

return 0
