# Runs the Vagrantfile's triggers as Vagrant would, on machines that are not there:
# trigger.rb FOLDER PROVIDER CASES. CASES is a JSON list of: stage ("before", "after"), command ("up",
# "provision"), name, id (null for a machine that is not made), master (its state), answer (what it
# prints when asked for a join line), noise (the same on its stderr).
# Prints for each what was asked, the error if any, and the text and mode of the join line's file.
require "json"
require "vagrant"

env = Vagrant::Environment.new(cwd: ARGV[0])
config = env.machine(:master, ARGV[1].to_sym).config.trigger

State = Struct.new(:id)
class Guest
  attr_reader :asked, :state, :communicate

  def initialize(state, answer, noise)
    @state = State.new(state.to_sym)
    @answer = answer
    @noise = noise
    @asked = []
    @communicate = self
  end

  def sudo(command)
    @asked << command
    yield :stderr, @noise
    @answer.chars.each_slice(7) { |part| yield :stdout, part.join }
    0
  end
end
Here = Struct.new(:name, :id, :provider_name)
Outside = Struct.new(:master) do
  def machine(name, _provider)
    raise "asked for #{name}" unless name == :master

    master
  end
end

file = File.join(ENV.fetch("VAGRANT_DOTFILE_PATH"), "join-line")

results = JSON.parse(ARGV[2]).map do |told|
  master = Guest.new(told["master"], told["answer"], told["noise"])
  here = Here.new(told["name"].to_sym, told["id"], ARGV[1].to_sym)
  error = nil
  begin
    found = told["stage"] == "before" ? config.before_triggers : config.after_triggers
    found.select { |one| one.command.to_s == told["command"] }
         .each { |one| one.ruby_block.call(Outside.new(master), here) }
  rescue Vagrant::Errors::VagrantError => e
    error = e.message
  end
  mode = (File.stat(file).mode & 0o777).to_s(8)
  { asked: master.asked, error: error, text: File.read(file), mode: mode }
end
puts JSON.generate(results)
